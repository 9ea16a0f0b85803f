"""Losses on real numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import REAL
from counterpoint.core.declare.loss import LossSpec
from counterpoint.losses.checks import (
    Reduction,
    checked_reduction,
    common_dtype,
    element_count,
    require_float_labels,
    require_float_outputs,
    require_same_shape,
    sample_means,
)

__all__ = ["absolute_error", "spec_of_absolute", "spec_of_squared", "squared_error"]


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
    return functional.mse_loss(*_real(outputs, targets, "squared error"), reduction=checked_reduction(reduction))


def absolute_error(outputs: Tensor, targets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Compute torch's absolute error (L1), in float32 at least and without broadcasting targets.

    It is not linear in the targets: on mixed targets it is the loss at the mixed target, not the mix of the losses.

    Args:
        outputs: real numbers, (N, ...), any float dtype.
        targets: real numbers of the same shape, float32 or float64.
        reduction: ``"none"``, ``"sum"`` or ``"mean"`` (over all elements).

    Raises:
        DataError: the shapes differ, (N, 1) and (N) included, or a dtype is not one of the above.
        ConfigError: ``reduction`` is none of the above.

    >>> import torch
    >>> absolute_error(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]]))
    tensor(2.)
    """
    return functional.l1_loss(*_real(outputs, targets, "absolute error"), reduction=checked_reduction(reduction))


def spec_of_squared(loss: nn.MSELoss) -> LossSpec:
    """Describe torch's module: right for continuous targets. The loss of each sample is the mean over its numbers.

    >>> sorted(map(str, spec_of_squared(nn.MSELoss()).accepts))
    ['continuous']
    """
    return _spec(loss, squared_error)


def spec_of_absolute(loss: nn.L1Loss) -> LossSpec:
    """Describe torch's module: right for continuous targets. The loss of each sample is the mean over its numbers.

    >>> sorted(map(str, spec_of_absolute(nn.L1Loss()).accepts))
    ['continuous']
    """
    return _spec(loss, absolute_error)


def _spec(loss: nn.MSELoss | nn.L1Loss, error: Callable[..., Tensor]) -> LossSpec:
    reduction = checked_reduction(loss.reduction)
    return LossSpec(
        name=type(loss).__name__,
        function=partial(error, reduction=reduction),
        accepts=frozenset({REAL}),
        denominator=element_count if reduction == "mean" else None,
        each=partial(sample_means, error),
    )


def _real(outputs: Tensor, targets: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Return both in their common dtype, after checking that they are real numbers of one shape."""
    require_float_outputs(outputs, loss)
    require_float_labels(targets, loss, "real numbers")
    require_same_shape(outputs, targets, loss)
    dtype = common_dtype(outputs, targets)
    return outputs.to(dtype), targets.to(dtype)
