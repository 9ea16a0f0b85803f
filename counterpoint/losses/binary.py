"""Binary cross-entropy on independent labels, from logits or from probabilities."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import MULTI_HOT
from counterpoint.losses.checks import (
    Reduction,
    check_weight,
    checked_number,
    checked_reduction,
    elementwise,
    require_no_growth,
)
from counterpoint.losses.known import KnownLoss
from counterpoint.losses.outputs import LOGITS, PROBABILITIES
from counterpoint.losses.settings import ReducedLossSettings, Weights

__all__ = [
    "KNOWN",
    "BinaryCrossEntropy",
    "ThresholdedBCEWithLogitsLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
]

NAME, LABELS = "binary cross-entropy", "labels between 0 and 1"


def binary_cross_entropy_with_logits(
    outputs: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    target_threshold: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute torch's binary cross-entropy from logits, in float32 at least and without broadcasting targets.

    It is linear in the targets, so on mixed labels it is the mix of the losses, unless there is a threshold. The mean
    divides by the number of elements, whatever the weights.

    Args:
        outputs: logits, (N, C) or (N, ...), any float dtype.
        targets: labels between 0 and 1 of the same shape, float32 or float64.
        weight: a factor for each element, of a shape that broadcasts to the targets'.
        pos_weight: a factor for the positive part, of a shape that broadcasts to the targets'.
        target_threshold: targets above it count as 1 and others as 0, from 0 to below 1; ``None``: as they are.
            Wightman et al., 2021, https://arxiv.org/abs/2110.00476
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.

    Raises:
        DataError: the shapes differ, a weight does not fit them, or a dtype is not one of the above.
        ConfigError: ``target_threshold`` or ``reduction`` is none of the above.

    >>> import torch
    >>> binary_cross_entropy_with_logits(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(0.6931)
    """
    logits, labels = elementwise(outputs, targets, NAME, LABELS)
    require_no_growth(weight, targets, NAME, "weight")
    require_no_growth(pos_weight, targets, NAME, "pos_weight")
    threshold = _checked_threshold(target_threshold)
    if threshold is not None:
        labels = targets.gt(threshold).to(labels.dtype)
    return functional.binary_cross_entropy_with_logits(
        logits,
        labels,
        None if weight is None else weight.to(logits.dtype),
        pos_weight=None if pos_weight is None else pos_weight.to(logits.dtype),
        reduction=checked_reduction(reduction),
    )


def binary_cross_entropy(
    outputs: Tensor, targets: Tensor, *, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Compute torch's binary cross-entropy from probabilities, in float32 at least and without broadcasting.

    Args:
        outputs: probabilities between 0 and 1, (N, C) or (N, ...), any float dtype.
        targets: labels between 0 and 1 of the same shape, float32 or float64.
        weight: a factor for each element, of a shape that broadcasts to the targets'.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.

    Raises:
        DataError: the shapes differ, ``weight`` does not fit them, or a dtype is not one of the above.
        ConfigError: ``reduction`` is none of the above.

    >>> import torch
    >>> binary_cross_entropy(torch.full((2, 3), 0.5), torch.ones(2, 3))
    tensor(0.6931)
    """
    probabilities, labels = elementwise(outputs, targets, NAME, LABELS)
    require_no_growth(weight, targets, NAME, "weight")
    return functional.binary_cross_entropy(
        probabilities,
        labels,
        None if weight is None else weight.to(labels.dtype),
        reduction=checked_reduction(reduction),
    )


class ThresholdedBCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """Binary cross-entropy from logits on targets that become 1 above a threshold and 0 elsewhere.

    The threshold is from 0 to below 1, such as the 0.2 of ResNet strikes back (https://arxiv.org/abs/2110.00476); the
    other settings are those of ``torch.nn.BCEWithLogitsLoss``. Raises ``ConfigError`` where one is out of range.

    >>> import torch
    >>> loss = ThresholdedBCEWithLogitsLoss(0.2)
    >>> logits = torch.tensor([[2.0, -1.0]])
    >>> loss(logits, torch.tensor([[0.7, 0.3]])) == nn.BCEWithLogitsLoss()(logits, torch.ones(1, 2))
    tensor(True)
    """

    def __init__(
        self,
        target_threshold: float,
        *,
        weight: Tensor | None = None,
        pos_weight: Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        check_weight(weight)
        check_weight(pos_weight, "pos_weight")
        super().__init__(weight, reduction=checked_reduction(reduction), pos_weight=pos_weight)
        self.target_threshold = _checked_threshold(target_threshold)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C) on labels between 0 and 1 of the same shape, float32 or float64."""
        return binary_cross_entropy_with_logits(
            input,
            target,
            weight=self.weight,
            pos_weight=self.pos_weight,
            target_threshold=self.target_threshold,
            reduction=checked_reduction(self.reduction),
        )


def _checked_threshold(threshold: float | None) -> float | None:
    """Return a threshold below 1: at 1 each target would be 0."""
    if threshold is None:
        return None
    meaning = "it is a number from 0 to below 1"
    return checked_number("target_threshold", threshold, meaning, high=math.nextafter(1, 0))


KNOWN = (
    KnownLoss(
        nn.BCEWithLogitsLoss,
        binary_cross_entropy_with_logits,
        accepts=frozenset({MULTI_HOT}),
        outputs=LOGITS,
        weights=("weight", "pos_weight"),
        functions=(functional.binary_cross_entropy_with_logits,),
        formula="`w · (v · y · (−log σ(x)) + (1 − y) · (−log σ(−x)))`",
        mixed="yes; `mean` is over the elements",
        refused="weights that would broadcast to a larger shape",
    ),
    KnownLoss(
        ThresholdedBCEWithLogitsLoss,
        binary_cross_entropy_with_logits,
        accepts=frozenset({MULTI_HOT}),
        outputs=LOGITS,
        settings=("target_threshold",),
        weights=("weight", "pos_weight"),
        formula="that of `BCEWithLogitsLoss`, of `y > threshold`",
        mixed="no: `y > threshold` of the mixed target",
        refused="such weights, and a threshold outside 0 to below 1",
    ),
    KnownLoss(
        nn.BCELoss,
        binary_cross_entropy,
        accepts=frozenset({MULTI_HOT}),
        outputs=PROBABILITIES,
        weights=("weight",),
        functions=(functional.binary_cross_entropy,),
        formula="that of `BCEWithLogitsLoss`, of probabilities, without `v`",
        mixed="yes; `mean` is over the elements",
        refused="weights that would broadcast to a larger shape",
    ),
)


class BinaryCrossEntropy(ReducedLossSettings):
    """Binary cross-entropy from logits, on multi-hot targets, or on class indices as one label for each class.

    >>> BinaryCrossEntropy(pos_weight=(1.0, 4.0)).build().pos_weight
    tensor([1., 4.])
    """

    module = ThresholdedBCEWithLogitsLoss
    weight: Weights = Field(default=None, description="a factor for each label, 0 or above; none: all 1")
    pos_weight: Weights = Field(
        default=None, description="a factor for the positive part of each label, 0 or above; none: all 1"
    )
    target_threshold: float | None = Field(
        default=None, ge=0, lt=1, description="targets above it count as 1 and others as 0; none: as they are"
    )

    def build(self) -> nn.Module:
        """Return a ``torch.nn.BCEWithLogitsLoss`` with these settings, or with a threshold this package's own."""
        arguments: dict[str, Any] = self._arguments()
        if self.target_threshold is not None:
            return self.module(**arguments)
        del arguments["target_threshold"]
        return nn.BCEWithLogitsLoss(**arguments)
