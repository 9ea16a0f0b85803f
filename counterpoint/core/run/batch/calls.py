"""The edits of a plan, bound before the first batch, and calls of them with the draws for one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.batch import Batch
from counterpoint.core.declare.kinds import Field, Kind
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.steps import BatchStep

__all__ = ["BoundEdit", "BoundMember", "BoundStep", "Call", "bind", "map_draws"]


@dataclass(frozen=True)
class BoundEdit:
    """A function of a batch and draws, with the kinds of inputs and targets that it gives (``None``: those it takes).

    ``name`` says whose edit it is: those of one name do the same, except for their draws. ``sample_losses`` is true
    for a function that is also called with a function for the loss of each sample.
    """

    name: str
    function: Callable[..., Batch]
    inputs_kind: Kind | None = None
    targets_kind: Kind | None = None
    sample_losses: bool = False


class BoundMember(NamedTuple):
    """What a member does in a step, with all of it that is known before the first batch.

    ``drawing`` is the name of its draws, empty where it draws nothing. ``certain`` is true if it acts on every batch of
    a run. A choice has ``branches`` and no edits.
    """

    member: Member
    drawing: str
    certain: bool
    edits: tuple[BoundEdit, ...]
    branches: tuple[BoundMember, ...] = ()


class BoundStep(NamedTuple):
    """A step of the plan with what its members do."""

    planned: BatchStep
    work: BoundMember


def bind(step: BatchStep) -> BoundStep:
    """Bind a step to the methods of its algorithms."""
    return BoundStep(step, _bound(step, step.work))


def _bound(step: BatchStep, member: Member) -> BoundMember:
    draws = type(member.algorithm).draw is not Algorithm.draw
    drawing = f"{member.identity}.draw" if draws else ""
    branches = tuple(_bound(step, branch) for branch in member.branches)
    edits = () if branches else tuple(_edits_of(step, member))
    return BoundMember(member, drawing, member.schedule.unconditional, edits, branches)


def _edits_of(step: BatchStep, member: Member) -> Iterator[BoundEdit]:
    kinds = step.gives.get(Field.INPUTS), step.gives.get(Field.TARGETS)
    for effect in member.declaration.transforms:
        if step.method in (None, effect.method):
            name, function = f"{member.identity}.{effect.method}", getattr(member.algorithm, effect.method)
            yield BoundEdit(name, function, *kinds, effect.sample_losses)


class Call(NamedTuple):
    """An edit with the draws for one batch.

    ``certain`` is true for one that acts on every batch of a run; ``active`` is false for one that its conditions leave
    out of this batch.
    """

    edit: BoundEdit
    draws: Any = None
    certain: bool = True
    active: bool = True


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
