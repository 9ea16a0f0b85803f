"""Cross-entropy that is the same loss on dense targets as torch's is on class indices."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import DENSE, INDEX
from counterpoint.losses.checks import Reduction, checked_number, checked_reduction, common_dtype
from counterpoint.losses.classes import along_classes, reduced, require_dense
from counterpoint.losses.known import POSITIONS, KnownLoss
from counterpoint.losses.outputs import LOGITS
from counterpoint.losses.settings import IgnoreIndex, ReducedLossSettings, Weights

__all__ = ["KNOWN", "CrossEntropy", "cross_entropy", "dense_cross_entropy"]

NAME = "cross-entropy"


def dense_cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute cross-entropy on class probabilities, equal to torch's on the class indices they stand for.

    A row of ``targets`` carries its mass: 1 for a position that counts, 0 for an ignored one (all zeros). With class
    weights ``w``, smoothing ``s`` and ``S(y) = (1 - s) * y + s / C * y.sum(class)``, a position's loss is ``sum(w *
    S(y) * -log p)`` and the mean is their sum over ``sum(w * y)``. The mean therefore divides as torch does on class
    indices; ``torch.nn.CrossEntropyLoss`` on probabilities divides differently. A class with target 0 adds
    nothing: without smoothing, its logit may be minus infinity.

    Args:
        outputs: logits, (N, C) or (N, C, d1, ...), any float dtype; computed in float32 at least.
        targets: class probabilities of the same shape, float32 or float64.
        weight: a factor for each class, (C).
        label_smoothing: share of each target spread evenly over the classes, 0 to 1.
        reduction: ``"none"`` (N, d1, ...), ``"sum"`` or ``"mean"`` (a scalar; where everything is ignored it is
            NaN, and its gradient 0).

    Raises:
        DataError: the shapes differ, are too short, or do not fit ``weight``; a dtype is not one of the above.
        ConfigError: ``label_smoothing`` or ``reduction`` is none of the above.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
    >>> weight = torch.tensor([1.0, 2.0])
    >>> dense = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # the last position is ignored
    >>> dense_cross_entropy(logits, dense, weight=weight)
    tensor(0.5044)
    >>> functional.cross_entropy(logits, torch.tensor([0, 1, -100]), weight=weight)
    tensor(0.5044)
    """
    require_dense(outputs, targets, weight, NAME)
    smoothing = _checked_smoothing(label_smoothing)
    dtype = common_dtype(outputs, targets)
    log_p = torch.log_softmax(outputs, dim=1, dtype=dtype)
    dense = targets.to(dtype)
    factors = None if weight is None else along_classes(weight, dense)
    weighted = dense if factors is None else dense * factors

    absent = dense == 0
    # A target of 0 times a log-probability of minus infinity must be 0, not NaN.
    chosen = -(weighted * log_p.masked_fill(absent & (log_p == -torch.inf), 0)).sum(1)
    # Filling cuts ignored positions off the gradient: where all are ignored, the mean is NaN and the gradient 0.
    ignored = absent.all(1)
    loss = reduced(chosen.masked_fill(ignored, 0), weighted, reduction)
    if smoothing == 0:
        return loss
    # The smoothed part stays apart from the other, as in torch, so that both agree on infinite logits too.
    spread = -(log_p if factors is None else log_p * factors).sum(1) * dense.sum(1)
    even = reduced(spread.masked_fill(ignored, 0), weighted, reduction)
    return (1 - smoothing) * loss + smoothing / outputs.shape[1] * even


def cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute cross-entropy on class indices (by torch) or on class probabilities, distinguished by their dtype.

    Args:
        outputs: logits, (N, C) or (N, C, d1, ...), any float dtype; computed in float32 at least.
        targets: class indices, any integer dtype, (N) or (N, d1, ...), or class probabilities as
            ``dense_cross_entropy`` takes them.
        weight: a factor for each class, (C).
        ignore_index: the class index whose positions do not count; dense targets have all-zero rows instead.
        label_smoothing: share of each target spread evenly over the classes, 0 to 1.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.

    Raises:
        DataError: dense targets do not fit the outputs or ``weight``.
        ConfigError: ``label_smoothing`` or ``reduction`` is none of the above.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> cross_entropy(logits, torch.tensor([0, 1])), cross_entropy(logits, torch.eye(2))
    (tensor(0.4100), tensor(0.4100))
    """
    if targets.is_floating_point():
        return dense_cross_entropy(
            outputs, targets, weight=weight, label_smoothing=label_smoothing, reduction=reduction
        )
    dtype = common_dtype(outputs)
    return functional.cross_entropy(
        outputs.to(dtype),
        targets.long(),
        None if weight is None else weight.to(dtype),
        ignore_index=ignore_index,
        label_smoothing=_checked_smoothing(label_smoothing),
        reduction=checked_reduction(reduction),
    )


def _checked_smoothing(label_smoothing: float) -> float:
    return checked_number("label_smoothing", label_smoothing, "it is a share between 0 and 1", high=1)


KNOWN = (
    KnownLoss(
        nn.CrossEntropyLoss,
        cross_entropy,
        accepts=frozenset({INDEX, DENSE}),
        outputs=LOGITS,
        averages=POSITIONS,
        settings=("ignore_index", "label_smoothing"),
        weights=("weight",),
        functions=(functional.cross_entropy, cross_entropy),
        check=lambda loss: _checked_smoothing(loss.label_smoothing),
        formula="`w · S(y) · (−log p)`",
        mixed="yes; `mean` is Σ of that over Σ `w · y`",
        refused="dense targets narrower than float32: their rows would not sum to 1",
    ),
)


class CrossEntropy(ReducedLossSettings):
    """Cross-entropy from logits, on class indices or class probabilities.

    >>> CrossEntropy(label_smoothing=0.1).build()
    CrossEntropyLoss()
    """

    module = nn.CrossEntropyLoss
    weight: Weights = None
    ignore_index: IgnoreIndex = -100
    label_smoothing: float = Field(
        default=0.0, ge=0, le=1, description="share of each target spread evenly over the classes, 0 to 1"
    )
