"""Losses on real numbers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import REAL
from counterpoint.losses.checks import Reduction, checked_reduction, elementwise
from counterpoint.losses.known import KnownLoss
from counterpoint.losses.settings import ReducedLossSettings

__all__ = ["KNOWN", "MeanAbsoluteError", "MeanSquaredError", "absolute_error", "squared_error"]


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
    return functional.mse_loss(
        *elementwise(outputs, targets, "squared error", "real numbers"), reduction=checked_reduction(reduction)
    )


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
    return functional.l1_loss(
        *elementwise(outputs, targets, "absolute error", "real numbers"), reduction=checked_reduction(reduction)
    )


KNOWN = (
    KnownLoss(
        nn.MSELoss,
        squared_error,
        accepts=frozenset({REAL}),
        functions=(functional.mse_loss,),
        formula="`(x − y)²`",
        mixed="no: taken at the mixed target",
        refused="shapes that would broadcast",
    ),
    KnownLoss(
        nn.L1Loss,
        absolute_error,
        accepts=frozenset({REAL}),
        functions=(functional.l1_loss,),
        formula="`abs(x − y)`",
        mixed="no: taken at the mixed target",
        refused="shapes that would broadcast",
    ),
)


class MeanSquaredError(ReducedLossSettings):
    """Squared error, on continuous targets.

    >>> MeanSquaredError().build()
    MSELoss()
    """

    module = nn.MSELoss


class MeanAbsoluteError(ReducedLossSettings):
    """Absolute error (L1), on continuous targets.

    >>> MeanAbsoluteError().build()
    L1Loss()
    """

    module = nn.L1Loss
