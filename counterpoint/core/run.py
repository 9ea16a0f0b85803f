"""Running the batch steps of a plan: who acts, with which draws, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from counterpoint.core.batch import Batch, BatchSpec
from counterpoint.core.contract import check_batch, check_step
from counterpoint.core.conversions import Conversion
from counterpoint.core.effects import TransformEffect
from counterpoint.core.kinds import Field
from counterpoint.core.member import Member
from counterpoint.core.plan import BatchStep, Plan
from counterpoint.core.rng import Rng

__all__ = ["Dice", "edit", "process_rank"]

CHECKED_STEPS = 2
"""The contract check holds each step of so many first batches to its declaration."""


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
    plan: Plan, inputs: Tensor, targets: Tensor, step: int, *, rank: int | None = None, donate: bool = False
) -> tuple[Batch, dict[str, Any]]:
    """Run the batch steps of a plan; return the edited batch and the draws of every member that acted."""
    batch = Batch(
        inputs,
        targets,
        inputs_kind=plan.facts.inputs,
        targets_kind=plan.facts.task.targets,
        task=plan.facts.task.name,
        num_classes=plan.facts.num_classes,
        writable=donate,
    )
    batch = check_batch(plan, batch)
    dice = Dice(plan.facts.seed, step, process_rank() if rank is None else rank)
    draws: dict[str, Any] = {}
    with torch.no_grad():
        for planned in plan.steps:
            before, batch = batch, _run(planned, batch, plan, dice, draws)
            if step < CHECKED_STEPS:
                check_step(planned, before, batch)
    return batch, draws


def _run(planned: BatchStep, batch: Batch, plan: Plan, dice: Dice, draws: dict[str, Any]) -> Batch:
    if isinstance(planned.work, Conversion):
        edited = _convert(planned.work, batch, plan)
    else:
        edited = _act(planned.work, planned.method, batch, dice, draws)
    given = {effect.edits[part].gives for effect in planned.effects for part in effect.edits}
    return replace(
        edited,
        inputs_kind=planned.after[Field.INPUTS] if planned.after[Field.INPUTS] in given else batch.inputs_kind,
        targets_kind=planned.after[Field.TARGETS] if planned.after[Field.TARGETS] in given else batch.targets_kind,
        writable=batch.writable or not _shares_memory(edited.inputs, batch.inputs),
    )


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _convert(conversion: Conversion, batch: Batch, plan: Plan) -> Batch:
    return batch.with_targets(conversion.convert(batch.targets, plan.facts.num_classes or 0, plan.ignore_index))


def _act(member: Member, method: str | None, batch: Batch, dice: Dice, draws: dict[str, Any]) -> Batch:
    if not dice.acts(member):
        return batch
    if member.branches:
        chosen = dice.chosen(member)
        draws[member.identity] = chosen.identity
        return _act(chosen, None, batch, dice, draws)
    drawn = draws[member.identity] if member.identity in draws else draw(member, batch.spec, dice)
    draws[member.identity] = drawn
    drawn = _moved(drawn, batch.inputs.device)
    for effect in member.declaration.transforms:
        if method is None or effect.method == method:
            batch = _apply(member, effect, batch, drawn)
    return batch


def _apply(member: Member, effect: TransformEffect, batch: Batch, drawn: Any) -> Batch:
    edited: Batch = getattr(member.algorithm, effect.method)(batch, drawn)
    return edited


def draw(member: Member, spec: BatchSpec, dice: Dice) -> Any:
    """Return the draws of a member for one batch."""
    return member.algorithm.draw(spec, dice.rng(member))


def _moved(draws: Any, device: torch.device) -> Any:
    """Return draws with every tensor on the device, moved without waiting."""
    if device.type == "cpu":
        return draws
    if isinstance(draws, Tensor):
        return draws.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else draws.to(device)
    if is_dataclass(draws) and not isinstance(draws, type):
        return replace(draws, **{part.name: _moved(getattr(draws, part.name), device) for part in fields(draws)})
    if isinstance(draws, Mapping):
        return {key: _moved(value, device) for key, value in draws.items()}
    if isinstance(draws, tuple):
        moved = [_moved(value, device) for value in draws]
        return type(draws)(*moved) if type(draws) is not tuple else tuple(moved)
    return draws
