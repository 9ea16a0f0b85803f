"""Running the batch steps of a plan: who acts, with which draws, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from counterpoint.core.batch import Batch, BatchSpec
from counterpoint.core.calls import Call, map_draws
from counterpoint.core.contract import watch_step
from counterpoint.core.conversions import Conversion
from counterpoint.core.errors import DataError
from counterpoint.core.intake import check_batch
from counterpoint.core.member import Member
from counterpoint.core.plan import Plan
from counterpoint.core.rng import Rng
from counterpoint.core.steps import BatchStep

__all__ = ["Dice", "draw", "draws", "edit", "prepare", "process_rank"]

SampleLosses = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Dice:
    """The randomness of one device batch: hands each member its own generator."""

    seed: int
    step: int
    rank: int

    def rng(self, member: Member, purpose: str = "") -> Rng:
        """Return the generator of a member; equal calls return equal generators."""
        stream = f"{member.identity}/{purpose}" if purpose else member.identity
        return Rng(self.seed, stream, self.step, None if member.rank_free else self.rank)

    def acts(self, member: Member) -> bool:
        """Whether the member acts on this batch, by its schedule and its coin."""
        if not member.schedule.covers(self.step):
            return False
        return member.schedule.p >= 1 or self.rng(member, "coin").coin(member.schedule.p)

    def chosen(self, member: Member) -> Member:
        """Return the branch of a choice that this batch gets."""
        return member.branches[self.rng(member, "choice").choice(member.weights)]


def process_rank() -> int:
    """Return the rank of this process as torch.distributed knows it, 0 if there is only one."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def edit(
    plan: Plan,
    inputs: Tensor,
    targets: Tensor,
    step: int,
    *,
    rank: int | None = None,
    donate: bool = False,
    sample_losses: SampleLosses | None = None,
) -> tuple[Batch, dict[str, Any]]:
    """Run the batch steps of a plan; return the edited batch and the draws of every member that acted.

    ``sample_losses`` gives the loss of each sample of a batch, for methods that ask for it.
    """
    dice = Dice(plan.facts.seed, step, process_rank() if rank is None else rank)
    editing = _Editing(plan, dice, _given(plan, inputs, targets, donate=donate), sample_losses)
    with torch.no_grad():
        return editing.run(), editing.draws


def prepare(plan: Plan, inputs: Tensor, targets: Tensor) -> Batch:
    """Run the batch steps of a plan that change kinds, and no others."""
    with torch.no_grad():
        return _Editing(plan, Dice(plan.facts.seed, 0, 0), _given(plan, inputs, targets), None).view()


def _given(plan: Plan, inputs: Tensor, targets: Tensor, *, donate: bool = False) -> Batch:
    facts = plan.facts
    return check_batch(
        plan, Batch(inputs, targets, facts.inputs, facts.task.targets, facts.task.name, facts.num_classes, donate)
    )


class _Editing:
    """One pass of a batch through the steps of a plan."""

    def __init__(self, plan: Plan, dice: Dice, given: Batch, sample_losses: SampleLosses | None) -> None:
        self.draws: dict[str, Any] = {}
        self._plan, self._dice, self._given, self._sample_losses = plan, dice, given, sample_losses

    def run(self) -> Batch:
        """Run every step."""
        batch = self._given
        for planned in self._plan.steps:
            watch = watch_step(self._plan.contract, self._dice.step, planned, batch)
            batch = self._run(planned, batch)
            watch(batch)
        return batch

    def _run(self, planned: BatchStep, batch: Batch) -> Batch:
        edited = batch
        for call in self._calls(planned, batch):
            edited = call(edited)
            own = not _shares_memory(edited.inputs, batch.inputs)
            edited = replace(edited, writable=batch.writable or own)
        return edited

    def _calls(self, planned: BatchStep, batch: Batch) -> Iterator[Call]:
        """Give the edits by which a step acts on this batch."""
        if isinstance(planned.work, Conversion):
            yield Call(planned.name, planned, partial(self._convert, planned.work))
        else:
            yield from self._acts(planned, planned.work, planned.method, batch)

    def _convert(self, conversion: Conversion, batch: Batch, draws: None) -> Batch:
        classes = self._plan.facts.num_classes or 0
        return batch.with_targets(conversion.convert(batch.targets, classes, self._plan.ignore_index))

    def _acts(self, planned: BatchStep, member: Member, method: str | None, batch: Batch) -> Iterator[Call]:
        if not self._dice.acts(member):
            return
        if member.branches:
            chosen = self._dice.chosen(member)
            self.draws[member.identity] = chosen.identity
            yield from self._acts(planned, chosen, None, batch)
            return
        if member.identity not in self.draws:
            self.draws[member.identity] = draw(member, batch.spec, self._dice)
        drawn = _moved(self.draws[member.identity], batch.inputs.device)
        for effect in member.declaration.transforms:
            if method is None or effect.method == method:
                edit = getattr(member.algorithm, effect.method)
                if effect.sample_losses:
                    edit = partial(_with_losses, edit, self._losses)
                yield Call(f"{member.identity}.{effect.method}", planned, edit, drawn)

    def view(self) -> Batch:
        """Run the steps that change kinds alone, on the batch as it was given."""
        view = replace(self._given, writable=False)
        for planned in self._plan.steps:
            if planned.before != planned.after:
                view = self._run(planned, view)
        return view

    def _losses(self) -> Tensor:
        """Return the loss of each sample of the batch as it was given, but for its kinds.

        The view has draws of its own: those of the batch are for the samples that will be left of it.
        """
        assert self._sample_losses is not None
        view = _Editing(self._plan, self._dice, self._given, None).view()
        losses = self._sample_losses(view)
        if losses.shape != (len(view.inputs),):
            raise DataError(
                f"the loss gives losses of shape {tuple(losses.shape)} for {len(view.inputs)} samples; LossSpec.each "
                "returns one number for each sample, (N)"
            )
        return losses


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def draws(plan: Plan, step: int, spec: BatchSpec, rank: int) -> dict[str, Any]:
    """Return the draws of every member that acts on a device batch; of a choice, the branch that is chosen."""
    dice, found = Dice(plan.facts.seed, step, rank), {}
    acting = [member for member in plan.members if dice.acts(member)]
    while acting:
        member = acting.pop(0)
        if member.branches:
            chosen = dice.chosen(member)
            found[member.identity] = chosen.identity
            acting = [chosen, *acting] if dice.acts(chosen) else acting
        else:
            found[member.identity] = draw(member, spec, dice)
    return {identity: drawn for identity, drawn in found.items() if drawn is not None}


def draw(member: Member, spec: BatchSpec, dice: Dice) -> Any:
    """Return the draws of a member for one batch."""
    return member.algorithm.draw(spec, dice.rng(member))


def _with_losses(edit: Callable[..., Batch], losses: Callable[[], Tensor], batch: Batch, draws: Any) -> Batch:
    return edit(batch, draws, losses)


def _moved(draws: Any, device: torch.device) -> Any:
    """Return draws with every tensor on the device, moved without waiting."""
    if device.type == "cpu":
        return draws
    if device.type == "cuda":
        return map_draws(lambda tensor: tensor.pin_memory().to(device, non_blocking=True), draws)
    return map_draws(lambda tensor: tensor.to(device), draws)
