"""Kullback-Leibler divergence of dense targets from the model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import DENSE
from counterpoint.core.errors import ConfigError
from counterpoint.losses.checks import checked_choice, common_dtype, element_count
from counterpoint.losses.classes import each_sample, mass, require_dense
from counterpoint.losses.known import Averages, KnownLoss
from counterpoint.losses.outputs import LOG_PROBABILITIES
from counterpoint.losses.settings import LossSettings

__all__ = ["KNOWN", "Division", "KLDivergence", "kl_divergence"]

NAME = "KL divergence"

Division: TypeAlias = Literal["none", "sum", "batchmean", "mean"]
"""The reduction of the elements: none, their sum, or their sum divided by the samples or by the elements."""
DIVISIONS: tuple[Division, ...] = get_args(Division)


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
    match checked_choice("reduction", reduction, DIVISIONS):
        case "none":
            return losses
        case "sum":
            return losses.sum()
        case "batchmean":
            return losses.sum() / len(losses)
        case "mean":
            return losses.mean()


def _check(loss: nn.KLDivLoss) -> None:
    if loss.log_target:
        raise ConfigError(
            "log_target is True, and the targets that reach the loss are probabilities, not their logarithms; "
            "log_target=False is the same loss on these"
        )


def _each(run: Callable[..., Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the divergence of each sample, averaged over its positions that count."""
    return each_sample(run(outputs, targets, reduction="none").sum(1), mass(targets))


def _sample_count(targets: Tensor) -> Tensor:
    return torch.full((), len(targets), dtype=common_dtype(targets), device=targets.device)


KNOWN = (
    KnownLoss(
        nn.KLDivLoss,
        kl_divergence,
        accepts=frozenset({DENSE}),
        outputs=LOG_PROBABILITIES,
        averages=Averages({"batchmean": _sample_count, "mean": element_count}, _each),
        functions=(functional.kl_div,),
        check=_check,
        formula="`y · (log y − x)`, `x` log-probabilities",
        mixed="no: taken at the mixed target",
        refused="`log_target=True`: targets are probabilities here, not their logarithms",
    ),
)


class KLDivergence(LossSettings):
    """Kullback-Leibler divergence from log-probabilities, on class probabilities.

    >>> KLDivergence().build()
    KLDivLoss()
    """

    module = nn.KLDivLoss
    reduction: Literal["batchmean", "mean", "sum"] = Field(
        default="batchmean",
        description="what the sum of a batch is divided by: its samples, all its elements, or nothing",
    )
