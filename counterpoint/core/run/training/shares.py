"""How the losses of the parts of a batch add up to that of the whole, where a mean has its own denominator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.core.plan.data import PlanData

__all__ = ["Shares", "as_mean", "shares"]


@dataclass(frozen=True)
class Shares:
    """How the losses of parts add up to that of the global batch.

    ``factors`` are those on the loss of each part of this process, with which the mean over the processes of their sum
    is the global loss. ``weight`` is what the mean divides by, for each process; ``None`` where losses simply add up.
    """

    factors: list[float]
    weight: Tensor | float | None

    def scaled(self, part: int, outputs: Tensor, loss: Tensor) -> Tensor:
        """Return the loss of a part, which it has at these outputs, as it counts in the whole."""
        factor = self.factors[part]
        if factor == 1:
            return loss
        # A part in which no target counts has a mean of 0 / 0, which no factor turns back into a number.
        return loss * factor if factor else outputs.sum() * 0


def shares(
    plan: PlanData, parts: Sequence[Tensor], *, processes: int = 1, add: Callable[[Tensor], Tensor] | None = None
) -> Shares:
    """Return the shares of the parts of a batch, given the targets of each.

    Where there are several ``processes``, ``add`` returns the sum of a number over all of them.

    >>> import counterpoint as cp
    >>> loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    >>> plan = cp.compose([], loss=loss, task="multiclass", num_classes=2)
    >>> shares(plan, [torch.tensor([0, 0]), torch.tensor([1, 1])]).factors
    [0.25, 0.75]
    """
    if plan.loss_spec is None or plan.loss_spec.denominator is None:
        return Shares([float(processes)] * len(parts), None)
    counts = torch.stack([plan.loss_spec.denominator(targets) for targets in parts])
    total = counts.sum() if add is None or processes == 1 else add(counts.sum())
    if processes == len(parts) == 1:
        return Shares([1.0], total)  # without a wait for the device
    *own, whole = torch.cat([counts, total[None]]).tolist()
    factors = [count * processes / whole if whole else float("nan") for count in own]
    return Shares(factors, whole / processes)


def as_mean(plan: PlanData, loss: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return the loss of one process's batch as a mean, and what it is the mean over; a sum becomes a mean."""
    if plan.loss_spec is None or plan.loss_spec.denominator is None:
        return loss / len(targets), float(len(targets))
    return loss, plan.loss_spec.denominator(targets)
