"""The pass of a batch through the steps of a plan: which methods act on it, with which draws, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, cached_property, partial
from itertools import chain, groupby, islice
from typing import Any

import torch
from torch import Tensor

from counterpoint.core.arguments import flag
from counterpoint.core.declare.batch import Batch, BatchSpec, Inputs
from counterpoint.core.errors import DataError
from counterpoint.core.plan.data import PlanData
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.steps import BatchStep
from counterpoint.core.run.batch.calls import BoundEdit, Call, bound_edits, run_calls
from counterpoint.core.run.batch.compilation import Compiled
from counterpoint.core.run.batch.contract import watch_step
from counterpoint.core.run.batch.device_transfer import move_draws
from counterpoint.core.run.batch.generators import GeneratorWatch
from counterpoint.core.run.batch.gradients import check_tracked, gradient_mode
from counterpoint.core.run.batch.validation import check_batch, check_targets, input_tensors
from counterpoint.core.run.dice import Dice
from counterpoint.core.run.failures import MethodCode
from counterpoint.core.run.progress import Progress
from counterpoint.core.tensors.checks import is_writable

__all__ = ["Runner"]

SampleLosses = Callable[[Batch], Tensor]


class Runner:
    """Runs the batch steps of one plan, and keeps what it has compiled and checked.

    ``backend`` is the one of ``torch.compile`` for the steps, ``None`` where they run one by one.
    """

    def __init__(self, plan: PlanData, backend: str | None = None) -> None:
        self.plan = plan
        self.compiled = None if backend is None else Compiled(backend)
        self.progress = Progress()

    @cached_property
    def stretches(self) -> tuple[tuple[bool, tuple[BatchStep, ...]], ...]:
        """The steps in stretches that leave a batch its shape; others, and eager ones, stand alone.

        With each stretch, whether it may be compiled into one function.
        """
        found: list[tuple[bool, tuple[BatchStep, ...]]] = []
        for together, group in groupby(self.plan.steps, lambda step: step.compiles):
            steps = tuple(group)
            found += [(True, steps)] if together else [(False, (step,)) for step in steps]
        return tuple(found)

    @cached_property
    def edits(self) -> dict[str, dict[str, tuple[BoundEdit, ...]]]:
        """What each member does to a batch, by the name of the step and of the member."""
        return {step.name: bound_edits(step) for step in self.plan.steps}

    def edit(
        self,
        inputs: Inputs,
        targets: Tensor,
        step: int,
        *,
        rank: int,
        donate: bool = False,
        sample_losses: SampleLosses | None = None,
    ) -> tuple[Batch, dict[str, Any]]:
        """Run the batch steps; return the edited batch and the draws of every member that acted.

        ``sample_losses`` gives the loss of each sample of a batch, for methods that ask for it. Steps compute in the
        dtypes that they are given, also within ``torch.autocast``, which is for the model, and so for
        ``sample_losses``. Gradients are tracked where the batch requires them and are not disabled.
        """
        device = input_tensors(inputs)[0].device.type
        if sample_losses is not None and _is_autocast(device):
            sample_losses = torch.autocast(device)(sample_losses)
        dice = Dice(self.plan.facts.seed, step, rank)
        given = self._given(inputs, targets, donate=donate)
        editing = _Editing(self, dice, given, sample_losses)
        with gradient_mode(self.plan, given), _without_autocast(device):
            return editing.run(), editing.draws

    def prepare(self, inputs: Inputs, targets: Tensor) -> Batch:
        """Run the batch steps that change kinds, and no others."""
        given = self._given(inputs, targets)
        with gradient_mode(self.plan, given), _without_autocast(given.inputs.device.type):
            return _Editing(self, Dice(self.plan.facts.seed, 0, 0), given, None).view()

    def _given(self, inputs: Inputs, targets: Tensor, *, donate: bool = False) -> Batch:
        facts, (first, *further) = self.plan.facts, input_tensors(inputs)
        # Writing into one tensor must not change another.
        apart = len({tensor.untyped_storage().data_ptr() for tensor in (first, *further)}) == 1 + len(further)
        writable = flag("donate", donate) and apart and all(map(is_writable, (first, *further)))
        kinds = (facts.inputs, facts.task.targets, facts.task.name, facts.num_classes)
        found = check_targets(targets, first)
        batch = Batch(first, found, *kinds, writable, tuple(further), given_targets=found)
        return check_batch(self.plan, batch)

    def drawn(self, step: int, spec: BatchSpec, rank: int) -> dict[str, Any]:
        """Return the draws of every member that acts on a device batch; of a choice, the branch that is chosen."""
        dice, found = Dice(self.plan.facts.seed, step, rank), {}
        acting = [member for member in self.plan.members if dice.acts(member)]
        while acting:
            member = acting.pop(0)
            if member.branches:
                chosen = dice.chosen(member)
                found[member.identity] = chosen.identity
                acting = [chosen, *acting] if dice.acts(chosen) else acting
            else:
                found[member.identity] = self.draw(member, spec, dice)
        return {identity: drawn for identity, drawn in found.items() if drawn is not None}

    def draw(self, member: Member, spec: BatchSpec, dice: Dice) -> Any:
        """Return the draws of a member for one batch; raises ``ContractError`` for draws from a global generator."""
        name = f"{member.identity}.draw"
        if not self.progress.check(self.plan.contract, (name,)):
            with MethodCode(name, dice.step):
                return member.algorithm.draw(spec, dice.rng(member))
        watch = GeneratorWatch()
        with MethodCode(name, dice.step):
            drawn = member.algorithm.draw(spec, dice.rng(member))
        watch.check(f"{name}, at step {dice.step},")
        return drawn


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    return torch.autocast(device, enabled=False) if _is_autocast(device) else nullcontext()


class _Editing:
    """One pass of a batch through the steps of a plan."""

    def __init__(self, runner: Runner, dice: Dice, given: Batch, sample_losses: SampleLosses | None) -> None:
        self.draws: dict[str, Any] = {}
        self._runner, self._plan, self._dice = runner, runner.plan, dice
        self._given, self._sample_losses = given, sample_losses
        self._generators: GeneratorWatch | None = None

    def run(self) -> Batch:
        """Run every step.

        Which steps are compiled is decided by the number of the batch alone. A later one is checked on a pass that is
        thrown away, so that a resumed run edits it as the run that was not interrupted.
        """
        tracked = torch.is_grad_enabled()
        batch = replace(self._given, writable=False) if tracked else self._given
        compiled = None if tracked or self._plan.contract.steps_alone(self._dice.step) else self._runner.compiled
        for together, steps in self._runner.stretches:
            if not together or compiled is None:
                batch = self._one_by_one(steps, batch)
                continue
            if self._due(steps, batch):
                self._one_by_one(steps, replace(batch, writable=False))
            batch = compiled.run(batch, partial(self._chain, steps, batch))
        return batch

    def _one_by_one(self, steps: Sequence[BatchStep], batch: Batch) -> Batch:
        for planned, calls in zip(steps, self._by_step(steps, batch), strict=True):
            batch = self._step(planned, calls, batch)
        return batch

    def _due(self, steps: Sequence[BatchStep], batch: Batch) -> bool:
        """Whether the contract checks one of these steps on this batch."""
        calls = (call.edit.name for planned in steps for call in self._calls(planned, batch))
        return self._runner.progress.due(self._plan.contract, calls)

    def _step(self, planned: BatchStep, calls: Sequence[Call], batch: Batch) -> Batch:
        """Run a step, and check it where the contract says so."""
        names = [call.edit.name for call in calls]
        code = MethodCode(names[0] if len(names) == 1 else planned.name, self._dice.step)
        if self._runner.progress.check(self._plan.contract, names):
            self._generators = GeneratorWatch()
            lent = () if self._given.writable else (*self._given.all_inputs, self._given.targets)
            check = watch_step(self._dice.step, planned, batch, lent)
            with code:
                edited = run_calls(calls, batch)
            check(edited)
            self._generators.check(f"{planned.name}, at step {self._dice.step}: it")
        else:
            self._generators = None
            with code:
                edited = run_calls(calls, batch)
        if torch.is_grad_enabled():
            check_tracked(planned.name, batch, edited)
        return edited

    def _chain(self, steps: Sequence[BatchStep], batch: Batch, *, everyone: bool = False) -> list[Call]:
        """Give the edits of the steps of a stretch, with their draws on the device of the batch."""
        calls = [call for planned in steps for call in self._calls(planned, batch, everyone=everyone)]
        return move_draws(calls, batch.inputs.device)

    def _by_step(self, steps: Sequence[BatchStep], batch: Batch) -> list[list[Call]]:
        """Give the edits of each step of a stretch; the draws of all are moved in one copy."""
        calls = [list(self._calls(planned, batch)) for planned in steps]
        moved = iter(move_draws(list(chain.from_iterable(calls)), batch.inputs.device))
        return [list(islice(moved, len(of_step))) for of_step in calls]

    def _calls(self, planned: BatchStep, batch: Batch, *, everyone: bool = False) -> Iterator[Call]:
        """Give the edits by which a step acts on this batch; with ``everyone``, also those that conditions leave out.

        The draws of those that act are kept.
        """
        for member, certain, active in self._leaves(planned.work, everyone=everyone):
            drawn = None if planned.inserted else self._drawn(member, batch.spec, keep=active)
            for edit in self._runner.edits[planned.name][member.identity]:
                yield Call(self._with_losses(edit) if edit.sample_losses else edit, drawn, certain, active)

    def _leaves(
        self, member: Member, *, certain: bool = True, active: bool = True, everyone: bool = False
    ) -> Iterator[tuple[Member, bool, bool]]:
        """Give a member, or of a choice its branches, and whether each acts on every batch, and on this one."""
        certain, active = certain and member.schedule.unconditional, active and self._dice.acts(member)
        if not (active or everyone):
            return
        if not member.branches:
            yield member, certain, active
            return
        chosen = self._dice.chosen(member)
        if active:
            self.draws[member.identity] = chosen.identity
        for branch in member.branches:
            if branch is chosen or everyone:
                yield from self._leaves(branch, certain=False, active=active and branch is chosen, everyone=everyone)

    def _drawn(self, member: Member, spec: BatchSpec, *, keep: bool) -> Any:
        if member.identity in self.draws:
            return self.draws[member.identity]
        drawn = self._runner.draw(member, spec, self._dice)
        if keep:
            self.draws[member.identity] = drawn
        return drawn

    def _with_losses(self, edit: BoundEdit) -> BoundEdit:
        return replace(edit, function=partial(_with_losses, edit.function, cache(partial(self._asked, edit.name))))

    def _asked(self, name: str) -> Tensor:
        """Return the losses of samples; the model may draw from global generators, and no method may."""
        if self._generators is None:
            return self._losses()
        return self._generators.except_for(f"{name}, at step {self._dice.step}", self._losses)

    def view(self) -> Batch:
        """Run the steps that change kinds alone, on the batch as it was given."""
        view = replace(self._given, writable=False)
        for planned in self._plan.steps:
            if planned.before != planned.after:
                view = run_calls(self._chain([planned], view), view)
        return view

    def _losses(self) -> Tensor:
        """Return the loss of each sample of the unedited batch, after the steps that change kinds.

        The view has draws of its own: those of the batch are for the samples that will be left of it.
        """
        assert self._sample_losses is not None
        view = _Editing(self._runner, self._dice, self._given, None).view()
        losses = self._sample_losses(view)
        if losses.shape != (len(view.inputs),):
            raise DataError(
                f"the loss gives losses of shape {tuple(losses.shape)} for {len(view.inputs)} samples; LossSpec.each "
                "returns one number for each sample, (N)"
            )
        return losses


def _with_losses(edit: Callable[..., Batch], losses: Callable[[], Tensor], batch: Batch, draws: Any) -> Batch:
    return edit(batch, draws, losses)
