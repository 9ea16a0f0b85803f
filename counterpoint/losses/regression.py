"""Losses on real numbers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.kinds import REAL
from counterpoint.core.loss import LossSpec
from counterpoint.losses.checks import (
    Reduction,
    checked_reduction,
    common_dtype,
    element_count,
    element_mean,
    require_float_labels,
    require_float_outputs,
    require_same_shape,
)

__all__ = ["spec_of", "squared_error"]

NAME = "squared error"


def squared_error(outputs: Tensor, targets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute torch's squared error, in float32 at least and without broadcasting targets.

    It is not linear in the targets: on mixed targets it is the loss at the mixed target, not the mix of the losses.

    Args:
        outputs: real numbers, (N, ...), any float dtype.
        targets: real numbers of the same shape, float32 or float64.
        reduction: ``"none"``, ``"sum"`` or ``"mean"`` (over all elements).

    Raises:
        DataError: the shapes differ, (N, 1) and (N) included, or a dtype is not one of the above.
        ConfigError: ``reduction`` is none of the above.

    >>> import torch
    >>> squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]]))
    tensor(5.)
    """
    require_float_outputs(outputs, NAME)
    require_float_labels(targets, NAME, "real numbers")
    require_same_shape(outputs, targets, NAME)
    dtype = common_dtype(outputs, targets)
    return functional.mse_loss(outputs.to(dtype), targets.to(dtype), reduction=checked_reduction(reduction))


def spec_of(loss: nn.MSELoss) -> LossSpec:
    """Describe torch's module: right for continuous targets. The loss of each sample is the mean over its numbers.

    >>> sorted(map(str, spec_of(nn.MSELoss()).accepts))
    ['continuous']
    """
    reduction = checked_reduction(loss.reduction)

    def function(outputs: Tensor, targets: Tensor) -> Tensor:
        return squared_error(outputs, targets, reduction=reduction)

    return LossSpec(
        name=type(loss).__name__,
        function=function,
        accepts=frozenset({REAL}),
        denominator=element_count if reduction == "mean" else None,
        each=lambda outputs, targets: element_mean(squared_error(outputs, targets, reduction="none")),
    )
