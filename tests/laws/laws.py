"""The laws that hold for every composition; each takes a case and raises ``AssertionError`` where it is broken."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor

import counterpoint as cp
from counterpoint.core.mend import mend
from counterpoint.core.run import edit
from counterpoint.core.steps import BatchStep
from counterpoint.core.wiring import judge
from tests.laws.reference import expected_targets
from tests.laws.strategy import Composition, Small

STEPS = 3


@dataclass
class Tally:
    """What became of the cases."""

    accepted: int = 0
    refused: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        total = self.accepted + self.refused
        lines = [f"{total} cases: {self.accepted} accepted, {self.refused} refused"]
        lines += [
            f"  {code}: {count} ({count / max(self.refused, 1):.1%} of the refused)"
            for code, count in self.codes.most_common()
        ]
        return "\n".join([*lines, "accepted with: " + ", ".join(f"{n} {c}" for n, c in self.methods.most_common())])


def hold(case: Composition, tally: Tally) -> None:
    """Hold a case to every law."""
    plan = accepted_or_refused(case, tally)
    if plan is None:
        return
    trains(case, plan, tally)
    same_for_every_list(case, plan)
    targets_are_the_composition(case, plan)
    draws_are_independent(case, plan)
    commuting_is_true(case, plan)


def accepted_or_refused(case: Composition, tally: Tally) -> cp.Plan | None:
    """Law 1, first half: a plan, or faults of which those with a fix as data are mended by it."""
    try:
        plan = cp.compose(case.algorithms, **case.facts)
    except cp.CompositionError as error:
        if not error.faults:
            raise AssertionError("a refusal without a fault") from error
        tally.refused += 1
        tally.codes.update({fault.code for fault in error.faults})
        mending_helps(case, error.faults)
        return None
    tally.accepted += 1
    tally.methods.update(type(member.algorithm).name for member in plan.members)
    return plan


def mending_helps(case: Composition, faults: tuple[cp.Fault, ...]) -> None:
    """Law 1: applying the fix of a fault removes it."""
    shared = len({algorithm.identity for algorithm in case.algorithms}) < len(case.algorithms)
    for fault in faults:
        # A remedy names its method, so those that share a name must be told apart first.
        if not fault.remedies or (shared and fault.code != "duplicate-id"):
            continue
        algorithms, facts = mend(case.algorithms, case.facts, fault.remedies)
        key = fault.code, fault.algorithms
        before = Counter((other.code, other.algorithms) for other in faults)
        after = Counter((other.code, other.algorithms) for other in faults_of(algorithms, facts))
        assert after[key] < before[key], f"{fault} is not mended by {fault.remedies}"


def faults_of(algorithms: Sequence[object], facts: dict[str, Any]) -> tuple[cp.Fault, ...]:
    try:
        cp.compose(algorithms, **facts)
    except cp.CompositionError as error:
        return error.faults
    return ()


def trains(case: Composition, plan: cp.Plan, tally: Tally) -> None:
    """Law 1, second half: an accepted plan runs three steps and an evaluation under the contract check.

    A model that a method cannot work on is refused when the engine is made, before anything runs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small(case.facts["task"], features=case.facts["inputs"] == "features")
    try:
        engine = cp.Engine(plan, model=model)
    except cp.CompositionError as error:
        tally.codes.update({fault.code for fault in error.faults})
        return
    engine.optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with engine.fit(), engine.epoch():
        for step in range(STEPS):
            train(engine, case, step)
        with engine.evaluation(), torch.no_grad():
            model.eval()
            assert torch.isfinite(model(case.inputs(0))).all()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def train(engine: cp.Engine, case: Composition, step: int) -> None:
    """Train on one batch."""
    with engine.batch(case.inputs(step), case.targets(step)) as batch:

        def closure() -> Tensor:
            with engine.forward():
                outputs = engine.model(batch.inputs)
            with engine.loss():
                loss = engine.plan.loss(outputs.to(torch.float32), batch.targets)
            with engine.backward():
                # A batch in which every position is ignored has a mean of 0 / 0; its gradient is 0.
                loss.backward()
            return loss.detach()

        engine.step(closure)


def edited(plan: cp.Plan, case: Composition, step: int) -> tuple[Tensor, Tensor]:
    """Return a batch as the plan edits it, with stand-ins for the losses of samples."""
    batch, _ = edit(
        plan,
        case.inputs(step),
        case.targets(step),
        step,
        rank=0,
        sample_losses=lambda view: view.inputs.double().flatten(1).mean(1),
    )
    return batch.inputs, batch.targets


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def same_for_every_list(case: Composition, plan: cp.Plan) -> None:
    """Law 2: every order of the list that keeps the pairs it decides gives the same plan and the same bits."""
    position = {algorithm.identity: place for place, algorithm in enumerate(case.algorithms)}
    decided = [
        tuple(name.partition(".")[0] for name in (pair.first, pair.second))
        for pair in plan.pairs
        if pair.rule == "as-listed"
    ]
    wanted = [(a, b) if position[a] < position[b] else (b, a) for a, b in decided]
    expected = [tuple(map(bits, edited(plan, case, step))) for step in range(STEPS)]
    for listed in itertools.islice(itertools.permutations(case.algorithms), 1, 24, 5):
        places = {algorithm.identity: place for place, algorithm in enumerate(listed)}
        if any(places[a] > places[b] for a, b in wanted):
            continue
        other = cp.compose(listed, **case.facts)
        assert other.fingerprint == plan.fingerprint, f"{plan.order} and {other.order}"
        assert [tuple(map(bits, edited(other, case, step))) for step in range(STEPS)] == expected


def targets_are_the_composition(case: Composition, plan: cp.Plan) -> None:
    """Law 3: the targets that reach the loss are those that the formulas and the printed draws give."""
    for step in range(STEPS):
        expected = expected_targets(plan, case, step)
        if expected is None:
            return
        got = edited(plan, case, step)[1]
        if not got.is_floating_point():
            assert torch.equal(got, case.targets(step))
        else:
            assert numpy.allclose(got.double().numpy(), expected, rtol=0, atol=1e-5), plan.order


def draws_are_independent(case: Composition, plan: cp.Plan) -> None:
    """Law 4: a method draws the same whoever else is there."""
    spec = cp.BatchSpec(case.size, tuple(case.inputs(0).shape[1:]), case.facts["num_classes"])
    for left_out in case.algorithms:
        rest = [algorithm for algorithm in case.algorithms if algorithm is not left_out]
        try:
            other = cp.compose(rest, **case.facts)
        except cp.CompositionError:
            continue  # someone needed the one that is left out
        for step in range(STEPS):
            everyone, without = plan.draws(step, spec), other.draws(step, spec)
            mine = {name for name in everyone if name.partition(".")[0] == left_out.identity}
            assert repr(without) == repr({name: drawn for name, drawn in everyone.items() if name not in mine})


def commuting_is_true(case: Composition, plan: cp.Plan) -> None:
    """Law 5: two neighbours that are said to commute give the same batch either way, in float64."""
    if case.dtype != torch.float64:
        return
    for first, second in itertools.combinations(plan.steps, 2):
        if judge(first, second) is None and not needed(first, second):
            compare_orders(plan, first, second, case)


def needed(first: BatchStep, second: BatchStep) -> bool:
    """Whether kinds or unedited reads order the two, so that swapping them has no meaning."""
    gives = any(edit.gives for step in (first, second) for effect in step.effects for edit in effect.edits.values())
    return gives or any(effect.unedited for step in (first, second) for effect in step.effects)


def compare_orders(plan: cp.Plan, first: BatchStep, second: BatchStep, case: Composition) -> None:
    """Run two steps alone, after the steps that change kinds, in both orders."""
    conversions = [step for step in plan.steps if step.before != step.after]
    results: list[tuple[Any, Any]] = []
    for pair in ([first, second], [second, first]):
        some: dict[str, Any] = {**vars(plan), "steps": (*conversions, *pair), "hooks": ()}
        results.append(edited(cp.Plan(**some), case, 0))
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-6, atol=1e-6), f"{first.name} and {second.name}"
