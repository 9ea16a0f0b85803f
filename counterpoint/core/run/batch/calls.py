"""The edits of batches as pure functions, and calls of them with the draws for one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from counterpoint.core.declare.batch import Batch
from counterpoint.core.declare.kinds import Field, Kind
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.steps import BatchStep

__all__ = ["BoundEdit", "Call", "bound_edits", "map_draws", "run_calls"]


@dataclass(frozen=True)
class BoundEdit:
    """A function of a batch and draws that gives new kinds of inputs and targets, or leaves those there are (``None``).

    ``name`` is the name of its method: edits of one name differ only in their draws. ``sample_losses`` is true for a
    function that is called with what gives the loss of each sample, too.
    """

    name: str
    function: Callable[..., Batch]
    inputs_kind: Kind | None = None
    targets_kind: Kind | None = None
    sample_losses: bool = False

    def __call__(self, batch: Batch, draws: Any) -> Batch:
        """Return the batch after the edit, in one input tensor."""
        inputs_kind = batch.inputs_kind if self.inputs_kind is None else self.inputs_kind
        targets_kind = batch.targets_kind if self.targets_kind is None else self.targets_kind
        edited = self.function(batch, draws)
        if edited.inputs_kind is inputs_kind and edited.targets_kind is targets_kind:
            return edited
        return replace(edited, inputs_kind=inputs_kind, targets_kind=targets_kind)


def bound_edits(step: BatchStep) -> dict[str, tuple[BoundEdit, ...]]:
    """Return what each member does to a batch in a step, by its name."""
    return {leaf.identity: tuple(_edits_of(step, leaf)) for leaf in step.work.leaves}


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

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch after the edit, which every input tensor gets with the same draws.

        Where samples are chosen, the same ones of the original targets are chosen.
        """
        edited = self.edit(batch, self.draws)
        if batch.given_targets is not None and len(edited.targets) != len(batch.targets):
            chosen = self.edit(replace(batch, inputs=batch.given_targets, further=()), self.draws)
            edited = replace(edited, given_targets=chosen.inputs)
        if not batch.further:
            return edited
        others = (replace(batch, inputs=inputs, further=()) for inputs in batch.further)
        return replace(edited, further=tuple(self.edit(other, self.draws).inputs for other in others))


def run_calls(calls: Iterable[Call], batch: Batch) -> Batch:
    """Run one edit after the other; memory that an edit has made may be written to by the next.

    Where gradients are tracked, autograd may have saved it, so no edit may write to it.
    """
    tracked = torch.is_grad_enabled()
    for call in calls:
        edited = call(batch)
        owned = not tracked and (batch.writable or not any(map(_share_memory, edited.all_inputs, batch.all_inputs)))
        batch = edited if edited.writable == owned else replace(edited, writable=owned)
    return batch


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one is other or one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


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
