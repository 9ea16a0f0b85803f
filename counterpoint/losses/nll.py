"""Negative log-likelihood that is the same loss on dense targets as torch's is on class indices."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import DENSE, INDEX
from counterpoint.losses.checks import Reduction, checked_reduction, common_dtype
from counterpoint.losses.classes import along_classes, reduced, require_dense
from counterpoint.losses.known import POSITIONS, KnownLoss
from counterpoint.losses.outputs import LOG_PROBABILITIES
from counterpoint.losses.settings import IgnoreIndex, ReducedLossSettings, Weights

__all__ = ["KNOWN", "NegativeLogLikelihood", "dense_nll", "nll"]

NAME = "negative log-likelihood"


def dense_nll(
    outputs: Tensor, targets: Tensor, *, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Compute the negative log-likelihood of class probabilities, equal to torch's of the indices they stand for.

    With class weights ``w``, a position's loss is ``sum(w * y * -outputs)``, and the mean is their sum over
    ``sum(w * y)``. A row of zeros is an ignored position. A class of target 0 does not count, whatever its output.

    Args:
        outputs: log-probabilities, (N, C) or (N, C, d1, ...), any float dtype; computed in float32 at least.
        targets: class probabilities of the same shape, float32 or float64.
        weight: a factor for each class, (C).
        reduction: ``"none"`` (N, d1, ...), ``"sum"`` or ``"mean"`` (a scalar; where everything is ignored it is
            NaN, as in torch).

    Raises:
        DataError: the shapes differ, are too short, or do not fit ``weight``; a dtype is not one of the above.
        ConfigError: ``reduction`` is none of the above.

    >>> import torch
    >>> log_p = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.1, 0.9]]).log()
    >>> dense = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # the last position is ignored
    >>> dense_nll(log_p, dense), functional.nll_loss(log_p, torch.tensor([0, 1, -100]))
    (tensor(0.4581), tensor(0.4581))
    """
    require_dense(outputs, targets, weight, NAME)
    dtype = common_dtype(outputs, targets)
    dense = targets.to(dtype)
    weighted = dense if weight is None else dense * along_classes(weight, dense)
    # The output of an absent class is not used, even if it is infinite or NaN, as in torch.
    losses = (-weighted * outputs.to(dtype)).masked_fill(dense == 0, 0).sum(1)
    return reduced(losses, weighted, reduction)


def nll(
    outputs: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute negative log-likelihood on class indices (by torch) or class probabilities, distinguished by their dtype.

    Args:
        outputs: log-probabilities, (N, C) or (N, C, d1, ...), any float dtype; computed in float32 at least.
        targets: class indices, any integer dtype, (N) or (N, d1, ...), or class probabilities as ``dense_nll`` takes.
        weight: a factor for each class, (C).
        ignore_index: the class index whose positions do not count; dense targets have all-zero rows instead.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.

    Raises:
        DataError: dense targets do not fit the outputs or ``weight``.
        ConfigError: ``reduction`` is none of the above.

    >>> import torch
    >>> log_p = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()
    >>> nll(log_p, torch.tensor([0, 1])), nll(log_p, torch.eye(2))
    (tensor(0.4581), tensor(0.4581))
    """
    if targets.is_floating_point():
        return dense_nll(outputs, targets, weight=weight, reduction=reduction)
    dtype = common_dtype(outputs)
    return functional.nll_loss(
        outputs.to(dtype),
        targets.long(),
        None if weight is None else weight.to(dtype),
        ignore_index=ignore_index,
        reduction=checked_reduction(reduction),
    )


KNOWN = (
    KnownLoss(
        nn.NLLLoss,
        nll,
        accepts=frozenset({INDEX, DENSE}),
        outputs=LOG_PROBABILITIES,
        averages=POSITIONS,
        settings=("ignore_index",),
        weights=("weight",),
        functions=(functional.nll_loss,),
        formula="`w · y · (−x)`, `x` log-probabilities",
        mixed="yes; `mean` is Σ of that over Σ `w · y`",
        refused="dense targets narrower than float32",
    ),
)


class NegativeLogLikelihood(ReducedLossSettings):
    """Negative log-likelihood from log-probabilities, on class indices or class probabilities.

    >>> NegativeLogLikelihood().build()
    NLLLoss()
    """

    module = nn.NLLLoss
    weight: Weights = None
    ignore_index: IgnoreIndex = -100
