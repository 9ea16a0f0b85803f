"""The edits of one batch as pure functions, each bound to its draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from counterpoint.core.batch import Batch
from counterpoint.core.kinds import Field
from counterpoint.core.steps import BatchStep

__all__ = ["Call", "map_draws"]


@dataclass(frozen=True)
class Call:
    """An edit ``edit(batch, draws)`` of a step of the plan.

    ``name`` says whose edit it is: calls of one name do the same, but for their draws. ``active`` is false for one that
    a condition leaves out of this batch.
    """

    name: str
    step: BatchStep
    edit: Callable[[Batch, Any], Batch]
    draws: Any = None
    active: bool = True

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch after the edit, with the kinds that the step gives."""
        edited, after = self.edit(batch, self.draws), self.step.after
        given = {effect.edits[part].gives for effect in self.step.effects for part in effect.edits}
        return replace(
            edited,
            inputs_kind=after[Field.INPUTS] if after[Field.INPUTS] in given else batch.inputs_kind,
            targets_kind=after[Field.TARGETS] if after[Field.TARGETS] in given else batch.targets_kind,
        )


def map_draws(change: Callable[[Tensor], Any], draws: Any) -> Any:
    """Return draws in which every tensor is changed; tuples, mappings and dataclasses are looked into.

    >>> import torch
    >>> map_draws(torch.Tensor.tolist, {"lam": torch.tensor(0.5), "boxes": (torch.zeros(2), "xyxy")})
    {'lam': 0.5, 'boxes': ([0.0, 0.0], 'xyxy')}
    """
    if isinstance(draws, Tensor):
        return change(draws)
    if is_dataclass(draws) and not isinstance(draws, type):
        parts = {part.name: map_draws(change, getattr(draws, part.name)) for part in fields(draws)}
        return replace(draws, **parts)
    if isinstance(draws, Mapping):
        return {key: map_draws(change, value) for key, value in draws.items()}
    if isinstance(draws, tuple):
        changed = [map_draws(change, value) for value in draws]
        return type(draws)(*changed) if type(draws) is not tuple else tuple(changed)
    return draws
