"""The laws that hold for every composition; each takes a case and raises ``AssertionError`` where it is broken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import torch
from torch import Tensor

import counterpoint as cp
from counterpoint.core.check.constraints import judge
from counterpoint.core.declare.algorithm import build
from counterpoint.core.declare.effects import Contract
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.schedule import Schedule
from counterpoint.core.plan.steps import BatchStep
from tests.laws.case import CLASSES, STEPS, Composition, Edited, bits, edited
from tests.laws.draft import altered
from tests.laws.settings import registered
from tests.laws.tally import Tally
from tests.laws.targets import dense_is_the_same_loss, targets_are_the_composition, unit_vectors_agree
from tests.laws.training import accepted_or_refused, trains

SAMPLED = 7
"""How many orders are tried of a list that is too long for all of them."""
LONG = 5


def hold(case: Composition, tally: Tally) -> None:
    """Hold a case to every law."""
    plan = accepted_or_refused(case, tally)
    if plan is None:
        return
    trained = trains(case, plan, tally)
    if trained is None:
        return
    tally.accept(case)
    plan = replace(plan, contract=Contract.OFF)
    batches = [edited(plan, case, step) for step in range(STEPS)]
    same_for_every_list(case, plan, batches, trained, tally)
    targets_are_the_composition(case, plan, batches, tally)
    unit_vectors_agree(case, plan, tally)
    dense_is_the_same_loss(case, plan, tally)
    draws_are_independent(case, plan, tally)
    commuting_is_true(case, plan, tally)


def same_for_every_list(
    case: Composition, plan: cp.Plan, batches: Sequence[Edited], trained: Sequence[Tensor], tally: Tally
) -> None:
    """Law 2: every order of the list that keeps the pairs it decides gives the same plan and the same bits.

    Every other list is made anew, of the methods as they stand in a config. Of some cases, the last list is trained.
    """
    other: cp.Plan | None = None
    if len(case.algorithms) < 2:
        return
    position = {algorithm.identity: place for place, algorithm in enumerate(case.listed)}
    decided = [
        tuple(name.partition(".")[0] for name in (pair.first, pair.second))
        for pair in plan.pairs
        if pair.rule == "as-listed"
    ]
    wanted = [(a, b) if position[a] < position[b] else (b, a) for a, b in decided]
    facts = case.facts | {"contract": "off"}
    for number, listed in enumerate(orders(case)):
        places = {algorithm.identity: place for place, algorithm in enumerate(listed)}
        if any(places[a] > places[b] for a, b in wanted):
            tally.count("2 lists that decide otherwise")
            continue
        other = cp.compose(list(map(read, listed)) if number % 2 else listed, **facts)
        assert other.fingerprint == plan.fingerprint, f"{plan.order} and {other.order}"
        assert [step.name for step in other.steps] == [step.name for step in plan.steps]
        tally.count("2 lists")
        if number % 4 == 0:
            step = number // 4 % STEPS
            assert list(map(bits, edited(other, case, step))) == list(map(bits, batches[step]))
            tally.count("2 bits")
    if other is not None and case.seed % 8 == 0:
        weights = trains(case, other, Tally())
        assert weights is not None
        assert list(map(bits, weights)) == list(map(bits, trained))
        tally.count("2 trainings")


def read(algorithm: cp.Algorithm[Any]) -> cp.Algorithm[Any]:
    """Return an algorithm made of what stands in a config for it."""
    return build(algorithm.component(), registered().__getitem__)


def orders(case: Composition) -> Iterator[Sequence[cp.Algorithm[Any]]]:
    """Yield every other order of a list, or of a long list some."""
    if len(case.listed) < LONG:
        yield from itertools.islice(itertools.permutations(case.listed), 1, None)
        return
    dice = Random(case.seed)
    yield case.listed[::-1]
    for _ in range(SAMPLED - 1):
        yield dice.sample(case.listed, len(case.listed))


def draws_are_independent(case: Composition, plan: cp.Plan, tally: Tally) -> None:
    """Law 4: a method draws the same whoever else is there, is added, or is skipped."""
    listed = [altered(item, after=(), before=()) for item in case.listed]
    everyone = drawn(plan, case)
    if case.extra is not None:
        compare_draws(case, [*listed, case.extra], everyone, "4 draws with another", "extra", tally)
    if not listed:
        return
    left_out = listed[case.seed % len(listed)]
    rest = [item for item in listed if item is not left_out]
    compare_draws(case, rest, everyone, "4 draws without another", left_out.identity, tally)
    skipped = [altered(item, p=1e-300) if item is left_out else item for item in listed]
    compare_draws(case, skipped, everyone, "4 draws with one skipped", left_out.identity, tally)


def compare_draws(
    case: Composition, listed: Sequence[object], everyone: list[dict[str, object]], what: str, but: str, tally: Tally
) -> None:
    """Compare the draws of a plan with those of another list, of all who are in both; ``but`` is who is not."""
    try:
        other = cp.compose(listed, **case.facts | {"strict_order": False})
    except cp.CompositionError:
        return  # who is left out was needed, or who is added does not fit
    for mine, theirs in zip(everyone, drawn(other, case), strict=True):
        assert without(theirs, but) == without(mine, but)
        tally.count(what, int(bool(without(mine, but))))


def drawn(plan: cp.Plan, case: Composition) -> list[dict[str, object]]:
    """Return what is drawn on each step but the first, as values that can be compared bit by bit."""
    spec = cp.BatchSpec(case.size, tuple(case.inputs(0).shape[1:]), CLASSES)
    return [{name: frozen(value) for name, value in plan.draws(step, spec).items()} for step in range(1, STEPS)]


def frozen(value: object) -> object:
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, dict):
        return {key: frozen(part) for key, part in value.items()}
    return tuple(map(frozen, value)) if isinstance(value, tuple) else value


def without(draws: dict[str, object], but: str) -> dict[str, object]:
    return {name: value for name, value in draws.items() if name.partition(".")[0] != but}


def commuting_is_true(case: Composition, plan: cp.Plan, tally: Tally) -> None:
    """Law 5: two steps that are said to commute give the same batch either way, in float64.

    Both are let act on every batch: a pair that never meets would agree about anything.
    """
    exact = replace(case, dtype=torch.float64, rows=torch.float64, dense=True)
    steps = [always(step) for step in plan.steps]
    for first, second in itertools.combinations(steps, 2):
        if judge(first, second) is None and not needed(first, second):
            compare_orders(plan, first, second, exact, tally)


def always(step: BatchStep) -> BatchStep:
    """Return a step without its schedule and coin, and those of its branches."""
    return replace(step, work=unscheduled(step.work))


def unscheduled(member: Member) -> Member:
    return replace(member, schedule=Schedule(), branches=tuple(map(unscheduled, member.branches)))


def needed(first: BatchStep, second: BatchStep) -> bool:
    """Whether kinds or unedited reads order the two, so that swapping them has no meaning."""
    gives = any(edit.gives for step in (first, second) for effect in step.effects for edit in effect.edits.values())
    return gives or any(effect.unedited for step in (first, second) for effect in step.effects)


def compare_orders(plan: cp.Plan, first: BatchStep, second: BatchStep, case: Composition, tally: Tally) -> None:
    """Run two steps alone, after the steps that change kinds, in both orders."""
    conversions = [step for step in plan.steps if step.before != step.after]

    def run(*pair: BatchStep) -> tuple[Tensor, Tensor]:
        alone = replace(plan, steps=(*conversions, *pair), hooks=(), contract=Contract.OFF)
        return edited(alone, case, case.seed % STEPS)

    for one, other in zip(run(first, second), run(second, first), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-9, atol=1e-9), f"{first.name} and {second.name}"
    tally.count("5 pairs")
    shared = [effect.edits.keys() for step in (first, second) for effect in step.effects]
    if set(shared[0]) & set(shared[-1]):
        plain, alone = run(), (run(first), run(second))
        changed = all(any(not torch.equal(a, b) for a, b in zip(plain, done, strict=True)) for done in alone)
        tally.count("5 pairs on one field", int(changed))
