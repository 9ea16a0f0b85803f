"""Binary cross-entropy on independent labels, from logits or from probabilities."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import MULTI_HOT
from counterpoint.core.declare.loss import LossSpec
from counterpoint.losses.checks import (
    Reduction,
    check_weight,
    checked_number,
    checked_reduction,
    common_dtype,
    element_count,
    require_float_labels,
    require_float_outputs,
    require_no_growth,
    require_same_shape,
    sample_means,
    weighed_classes,
)
from counterpoint.losses.outputs import LOGITS, PROBABILITIES
from counterpoint.losses.weights import WithWeights

__all__ = [
    "ThresholdedBCEWithLogitsLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "spec_of_logits",
    "spec_of_probabilities",
]

NAME = "binary cross-entropy"


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
    _require_labels(outputs, targets)
    require_no_growth(weight, targets, NAME, "weight")
    require_no_growth(pos_weight, targets, NAME, "pos_weight")
    dtype = common_dtype(outputs, targets)
    threshold = _checked_threshold(target_threshold)
    labels = targets if threshold is None else targets.gt(threshold)
    return functional.binary_cross_entropy_with_logits(
        outputs.to(dtype),
        labels.to(dtype),
        None if weight is None else weight.to(dtype),
        pos_weight=None if pos_weight is None else pos_weight.to(dtype),
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
    _require_labels(outputs, targets)
    require_no_growth(weight, targets, NAME, "weight")
    dtype = common_dtype(outputs, targets)
    return functional.binary_cross_entropy(
        outputs.to(dtype),
        targets.to(dtype),
        None if weight is None else weight.to(dtype),
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


def spec_of_logits(loss: nn.BCEWithLogitsLoss) -> LossSpec:
    """Describe torch's module, or the one with a threshold: right for multi-hot targets.

    Its weights are read at every call.

    The loss of each sample is the mean over its labels, weighted.

    >>> sorted(map(str, spec_of_logits(nn.BCEWithLogitsLoss()).accepts))
    ['multi_hot']
    """
    reduction = checked_reduction(loss.reduction)
    threshold = loss.target_threshold if isinstance(loss, ThresholdedBCEWithLogitsLoss) else None
    function = partial(binary_cross_entropy_with_logits, target_threshold=threshold)
    run = WithWeights(function, loss, ("weight", "pos_weight"))
    return LossSpec(
        name=type(loss).__name__,
        function=partial(run, reduction=reduction),
        accepts=frozenset({MULTI_HOT}),
        denominator=element_count if reduction == "mean" else None,
        each=partial(sample_means, run),
        classes=weighed_classes(loss.weight, loss.pos_weight),
        outputs=LOGITS,
    )


def spec_of_probabilities(loss: nn.BCELoss) -> LossSpec:
    """Describe torch's module: right for multi-hot targets. Its weights are read at every call.

    The loss of each sample is the mean over its labels, weighted.

    >>> sorted(map(str, spec_of_probabilities(nn.BCELoss()).accepts))
    ['multi_hot']
    """
    reduction = checked_reduction(loss.reduction)
    run = WithWeights(binary_cross_entropy, loss, ("weight",))
    return LossSpec(
        name=type(loss).__name__,
        function=partial(run, reduction=reduction),
        accepts=frozenset({MULTI_HOT}),
        denominator=element_count if reduction == "mean" else None,
        each=partial(sample_means, run),
        classes=weighed_classes(loss.weight),
        outputs=PROBABILITIES,
    )


def _checked_threshold(threshold: float | None) -> float | None:
    """Return a threshold below 1: at 1 each target would be 0."""
    if threshold is None:
        return None
    meaning = "it is a number from 0 to below 1"
    return checked_number("target_threshold", threshold, meaning, high=math.nextafter(1, 0))


def _require_labels(outputs: Tensor, targets: Tensor) -> None:
    require_float_outputs(outputs, NAME)
    require_float_labels(targets, NAME, "labels between 0 and 1")
    require_same_shape(outputs, targets, NAME)
