"""Kullback-Leibler divergence of dense targets from the model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from counterpoint.core.arguments import written
from counterpoint.core.declare.kinds import DENSE
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.errors import ConfigError, nearest
from counterpoint.losses.checks import common_dtype, element_count
from counterpoint.losses.classes import each_sample, mass, require_dense
from counterpoint.losses.outputs import LOG_PROBABILITIES

__all__ = ["Division", "kl_divergence", "spec_of"]

NAME = "KL divergence"

Division: TypeAlias = Literal["none", "sum", "batchmean", "mean"]
"""The reduction of the elements: none, their sum, or their sum divided by the samples or by the elements."""


def kl_divergence(outputs: Tensor, targets: Tensor, *, reduction: Division = "mean") -> Tensor:
    """Compute torch's KL divergence, ``y * (log(y) - outputs)`` for each element, without broadcasting targets.

    It is not linear in the targets: on mixed targets it is the loss at the mixed target. A row of zeros, an ignored
    position, adds 0; ``batchmean`` and ``mean`` count it nevertheless, as torch does. An element of target 0 adds 0
    whatever its output, also where that is minus infinity and torch's loss is NaN.

    Args:
        outputs: log-probabilities, (N, C) or (N, C, d1, ...), any float dtype; computed in float32 at least.
        targets: class probabilities of the same shape, float32 or float64.
        reduction: ``"none"`` (elements), ``"sum"``, ``"batchmean"`` (the sum over N: for targets (N, C) the
            divergence itself) or ``"mean"`` (over all elements, as torch's default).

    Raises:
        DataError: the shapes differ or are too short, or a dtype is not one of the above.
        ConfigError: ``reduction`` is none of the above.

    >>> log_p = torch.tensor([[0.5, 0.5], [0.2, 0.8]]).log()
    >>> kl_divergence(log_p, torch.tensor([[1.0, 0.0], [0.2, 0.8]]), reduction="batchmean")
    tensor(0.3466)
    """
    require_dense(outputs, targets, None, NAME)
    dtype = common_dtype(outputs, targets)
    dense = targets.to(dtype)
    losses = torch.xlogy(dense, dense) - dense * outputs.to(dtype).masked_fill(dense == 0, 0)
    match _checked(reduction):
        case "none":
            return losses
        case "sum":
            return losses.sum()
        case "batchmean":
            return losses.sum() / len(losses)
        case "mean":
            return losses.mean()


def spec_of(loss: nn.KLDivLoss) -> LossSpec:
    """Describe torch's module: right for dense targets.

    The loss of each sample is the divergence averaged over its positions that count. Raises ``ConfigError`` for
    ``log_target=True``: it would take the probabilities that reach the loss for their logarithms.

    >>> sorted(map(str, spec_of(nn.KLDivLoss(reduction="batchmean")).accepts))
    ['dense']
    """
    if loss.log_target:
        raise ConfigError(
            "log_target is True, and the targets that reach the loss are probabilities, not their logarithms; "
            "log_target=False is the same loss on these"
        )
    reduction = _checked(loss.reduction)
    denominators: dict[Division, Callable[[Tensor], Tensor]] = {"mean": element_count, "batchmean": _sample_count}
    return LossSpec(
        name=type(loss).__name__,
        function=partial(kl_divergence, reduction=reduction),
        accepts=frozenset({DENSE}),
        denominator=denominators.get(reduction),
        each=_each,
        outputs=LOG_PROBABILITIES,
    )


def _each(outputs: Tensor, targets: Tensor) -> Tensor:
    return each_sample(kl_divergence(outputs, targets, reduction="none").sum(1), mass(targets))


def _checked(reduction: str) -> Division:
    known: tuple[Division, ...] = get_args(Division)
    for division in known if isinstance(reduction, str) else ():
        if reduction == division:
            return division
    raise ConfigError(
        f"reduction is {written(reduction)}{nearest(reduction if isinstance(reduction, str) else '', known)}"
    )


def _sample_count(targets: Tensor) -> Tensor:
    return torch.full((), len(targets), dtype=common_dtype(targets), device=targets.device)
