"""The pass of a batch through the steps of a plan: which methods act on it, with which draws, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from counterpoint.core.declare.batch import Batch, BatchSpec, Inputs
from counterpoint.core.declare.effects import Contract
from counterpoint.core.declare.randomness import Rng
from counterpoint.core.plan.data import PlanData
from counterpoint.core.plan.member import Member
from counterpoint.core.run.batch.calls import BoundEdit, BoundMember, BoundStep, Call, bind
from counterpoint.core.run.batch.compilation import Compiled
from counterpoint.core.run.batch.contract import watch_step
from counterpoint.core.run.batch.device_transfer import move_draws
from counterpoint.core.run.batch.generators import GeneratorWatch
from counterpoint.core.run.batch.gradients import check_tracked, gradient_mode
from counterpoint.core.run.batch.sample_losses import Ask, SampleLosses, asking
from counterpoint.core.run.batch.validation import given_batch
from counterpoint.core.run.dice import Dice
from counterpoint.core.run.failures import MethodCode, raise_named
from counterpoint.core.run.progress import Progress

__all__ = ["Runner", "apply_edit", "run_calls"]

_NAME = attrgetter("edit.name")


class Runner:
    """Runs the batch steps of one plan, and keeps what it has compiled and checked.

    ``backend`` is the one of ``torch.compile`` for the steps, ``None`` where they run one by one.
    """

    def __init__(self, plan: PlanData, backend: str | None = None) -> None:
        self.plan = plan
        self.compiled = None if backend is None else Compiled(backend, apply_edit, run_calls)
        self.progress = Progress()
        self.checks = plan.contract is not Contract.OFF
        self.specs: dict[torch.Size, BatchSpec] = {}

    @cached_property
    def stretches(self) -> tuple[tuple[bool, tuple[BoundStep, ...]], ...]:
        """The steps in stretches that leave a batch its shape; others, and eager ones, stand alone.

        With each stretch, whether it may be compiled into one function.
        """
        found: list[tuple[bool, tuple[BoundStep, ...]]] = []
        for together, group in groupby(self.plan.steps, lambda step: step.compiles):
            steps = tuple(map(bind, group))
            found += [(True, steps)] if together else [(False, (step,)) for step in steps]
        return tuple(found)

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
        given = given_batch(self.plan, inputs, targets, donate=donate)
        device = given.inputs.device.type
        autocast = _is_autocast(device)
        if sample_losses is not None and autocast:
            sample_losses = torch.autocast(device)(sample_losses)
        editing = _Editing(self, Dice(self.plan.facts.seed, step, rank), given, sample_losses)
        precision = torch.autocast(device, enabled=False) if autocast else nullcontext()
        tracked = given.inputs.requires_grad or given.targets.requires_grad or given.further
        with gradient_mode(self.plan, given) if tracked else torch.no_grad(), precision:
            return editing.run(), editing.draws

    def prepare(self, inputs: Inputs, targets: Tensor) -> Batch:
        """Run the batch steps that change kinds, and no others."""
        given = given_batch(self.plan, inputs, targets)
        device = given.inputs.device.type
        precision = torch.autocast(device, enabled=False) if _is_autocast(device) else nullcontext()
        with gradient_mode(self.plan, given), precision:
            return _Editing(self, Dice(self.plan.facts.seed, 0, 0), given, None).view()

    def drawn(self, step: int, spec: BatchSpec, rank: int) -> dict[str, Any]:
        """Return the draws of every member that acts on a device batch; of a choice, the branch that is chosen."""
        dice, found = Dice(self.plan.facts.seed, step, rank), {}
        for member, chosen in dice.acting(self.plan.members):
            found[member.identity] = self.draw(member, spec, dice) if chosen is None else chosen.identity
        return {identity: drawn for identity, drawn in found.items() if drawn is not None}

    def draw(self, member: Member, spec: BatchSpec, dice: Dice) -> Any:
        """Return the draws of a member for one batch; raises ``ContractError`` for draws from a global generator."""
        name = f"{member.identity}.draw"
        rng = Rng(dice.seed, member.identity, dice.step, None if member.rank_free else dice.rank)
        due = self.checks and name not in self.progress.settled and self.progress.check(self.plan.contract, (name,))
        watch = GeneratorWatch() if due else None
        try:
            drawn = member.algorithm.draw(spec, rng)
        except Exception as error:
            raise_named(error, name, dice.step)
            raise
        if watch is not None:
            watch.check(f"{name}, at step {dice.step},")
        return drawn


class _Editing:
    """One pass of a batch through the steps of a plan."""

    def __init__(self, runner: Runner, dice: Dice, given: Batch, sample_losses: SampleLosses | None) -> None:
        self.draws: dict[str, Any] = {}
        self._runner, self._plan, self._dice, self._given = runner, runner.plan, dice, given
        self._ask: Ask | None = None
        if sample_losses is not None:  # of a view with draws of its own: those of the batch are for the samples left
            self._ask = Ask(lambda: _Editing(runner, dice, given, None).view(), sample_losses, dice.step)

    def run(self) -> Batch:
        """Run every step.

        Which steps are compiled is decided by the number of the batch alone. A later one is checked on a pass that is
        thrown away, so that a resumed run edits it as the run that was not interrupted.
        """
        tracked, compiled = torch.is_grad_enabled(), self._runner.compiled
        batch = replace(self._given, writable=False) if tracked else self._given
        if compiled is not None and (tracked or self._plan.contract.steps_alone(self._dice.step)):
            compiled = None
        for together, steps in self._runner.stretches:
            if not together or compiled is None:
                batch = self._one_by_one(steps, batch)
                continue
            if self._due(steps, batch):
                self._one_by_one(steps, replace(batch, writable=False))
            with MethodCode(", ".join(bound.planned.name for bound in steps), self._dice.step):
                batch = compiled.run(batch, partial(self._chain, steps, batch))
        return batch

    def _one_by_one(self, steps: Sequence[BoundStep], batch: Batch) -> Batch:
        """Run the steps of a stretch; the draws of all are moved in one copy."""
        calls = list(map(partial(self._calls, batch=batch), steps))
        if batch.inputs.device.type != "cpu":
            moved = iter(move_draws(list(chain.from_iterable(calls)), batch.inputs.device))
            calls = [list(islice(moved, len(of_step))) for of_step in calls]
        for bound, of_step in zip(steps, calls, strict=True):
            batch = self._step(bound, of_step, batch)
        return batch

    def _due(self, steps: Sequence[BoundStep], batch: Batch) -> bool:
        """Whether the contract checks one of these steps on this batch."""
        names = map(_NAME, chain.from_iterable(self._calls(bound, batch) for bound in steps))
        return self._runner.progress.due(self._plan.contract, names)

    def _step(self, bound: BoundStep, calls: Sequence[Call], batch: Batch) -> Batch:
        """Run a step, and check it where the contract says so."""
        runner, name = self._runner, bound.planned.name
        names = tuple(map(_NAME, calls))
        unsettled = runner.checks and not runner.progress.settled.issuperset(names)
        check = self._watched(bound, names, batch) if unsettled else None
        try:
            edited = run_calls(calls, batch)
        except Exception as error:
            raise_named(error, names[0] if len(names) == 1 else name, self._dice.step)
            raise
        if check is not None:
            check(edited)
        if torch.is_grad_enabled():
            check_tracked(name, batch, edited)
        return edited

    def _watched(self, bound: BoundStep, names: Sequence[str], batch: Batch) -> Callable[[Batch], None] | None:
        """Return what checks a step once it has run, if the contract checks it on this batch."""
        if not self._runner.progress.check(self._plan.contract, names):
            return None
        given, step, generators = self._given, self._dice.step, GeneratorWatch()
        check = watch_step(step, bound.planned, batch, () if given.writable else (*given.all_inputs, given.targets))
        if self._ask is not None:
            self._ask.generators = generators

        def done(edited: Batch) -> None:
            check(edited)
            generators.check(f"{bound.planned.name}, at step {step}: it")
            if self._ask is not None:
                self._ask.generators = None

        return done

    def _chain(self, steps: Sequence[BoundStep], batch: Batch, *, everyone: bool = False) -> list[Call]:
        """Give the edits of the steps of a stretch, with their draws on the device of the batch."""
        calls = [call for bound in steps for call in self._calls(bound, batch, everyone=everyone)]
        return move_draws(calls, batch.inputs.device)

    def _calls(self, bound: BoundStep, batch: Batch, *, everyone: bool = False) -> list[Call]:
        """Return the edits by which a step acts on this batch; with ``everyone``, also those that do not act on it.

        The draws of those that act are kept.
        """
        work, calls = bound.work, []
        alone = work.certain and not work.branches
        for leaf, certain, active in ((work, True, True),) if alone else self._leaves(work, everyone=everyone):
            drawn = None
            if leaf.drawing:
                drawn = self._drawn(leaf.member, batch, keep=active)
            elif active and not bound.planned.inserted:
                self.draws[leaf.member.identity] = None
            for edit in leaf.edits:
                bound_edit = asking(edit, self._ask) if edit.sample_losses else edit
                calls.append(Call(bound_edit, drawn, certain, active))
        return calls

    def _leaves(
        self, work: BoundMember, *, certain: bool = True, active: bool = True, everyone: bool = False
    ) -> Iterator[tuple[BoundMember, bool, bool]]:
        """Give a member, or of a choice its branches, and whether each acts on every batch, and on this one."""
        certain, active = certain and work.certain, active and self._dice.acts(work.member)
        if not (active or everyone):
            return
        if not work.branches:
            yield work, certain, active
            return
        chosen = self._dice.chosen(work.member)
        if active:
            self.draws[work.member.identity] = chosen.identity
        for branch in work.branches:
            mine = branch.member is chosen
            if mine or everyone:
                yield from self._leaves(branch, certain=False, active=active and mine, everyone=everyone)

    def _drawn(self, member: Member, batch: Batch, *, keep: bool) -> Any:
        if member.identity in self.draws:
            return self.draws[member.identity]
        specs, shape = self._runner.specs, batch.inputs.shape
        if shape not in specs:
            specs.clear()  # batches have one shape, and the last of an epoch another
            specs[shape] = batch.spec
        drawn = self._runner.draw(member, specs[shape], self._dice)
        if keep:
            self.draws[member.identity] = drawn
        return drawn

    def view(self) -> Batch:
        """Run the steps that change kinds alone, on the batch as it was given."""
        view = replace(self._given, writable=False)
        for bound in chain.from_iterable(steps for _, steps in self._runner.stretches):
            if bound.planned.before != bound.planned.after:
                view = run_calls(self._chain([bound], view), view)
        return view


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def apply_edit(edit: BoundEdit, batch: Batch, draws: Any) -> Batch:
    """Return a batch after an edit of its first input tensor, with the kinds that the edit gives."""
    inputs_kind = batch.inputs_kind if edit.inputs_kind is None else edit.inputs_kind
    targets_kind = batch.targets_kind if edit.targets_kind is None else edit.targets_kind
    edited = edit.function(batch, draws)
    if edited.inputs_kind is inputs_kind and edited.targets_kind is targets_kind:
        return edited
    return replace(edited, inputs_kind=inputs_kind, targets_kind=targets_kind)


def run_calls(calls: Iterable[Call], batch: Batch) -> Batch:
    """Run one edit after the other; memory that an edit has made may be written to by the next.

    Every input tensor is edited with the same draws. None is written to that is one of several, or that autograd may
    have saved where gradients are tracked.
    """
    tracked = torch.is_grad_enabled()
    for edit, draws, *_ in calls:
        edited = apply_edit(edit, batch, draws)
        if batch.further or len(edited.targets) != len(batch.targets):
            edited = _alike(edit, draws, batch, edited)
        one, other = edited.inputs, batch.inputs
        new = one is not other and one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()
        owned = not tracked and (batch.writable or (new and not batch.further))
        batch = edited if edited.writable == owned else replace(edited, writable=owned)
    return batch


def _alike(edit: BoundEdit, draws: Any, batch: Batch, edited: Batch) -> Batch:
    """Return an edited batch with its further inputs edited in the same way, and its original targets."""
    if batch.given_targets is not None and len(edited.targets) != len(batch.targets):
        chosen = apply_edit(edit, replace(batch, inputs=batch.given_targets, further=()), draws)
        edited = replace(edited, given_targets=chosen.inputs)
    others = (replace(batch, inputs=inputs, further=()) for inputs in batch.further)
    return replace(edited, further=tuple(apply_edit(edit, other, draws).inputs for other in others))
