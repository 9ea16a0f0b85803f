"""Law 1: a composition is refused with a fault whose fix helps, or it trains under the contract check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import counterpoint as cp
from counterpoint.core.check.fixes.changes import apply_changes
from tests.laws.case import STEPS, Composition
from tests.laws.mistakes import BY_THE_MODEL
from tests.laws.tally import Tally


def accepted_or_refused(case: Composition, tally: Tally) -> cp.Plan | None:
    """Law 1, first half: a plan, or faults of which those with a fix as data are mended by it."""
    try:
        plan = cp.compose(case.algorithms, **case.facts)
    except cp.CompositionError as error:
        refused(case, error.faults, tally)
        return None
    assert case.aim in BY_THE_MODEL | {None}, f"{case.aim} was put in, and nothing found"
    return plan


def refused(case: Composition, faults: tuple[cp.Fault, ...], tally: Tally) -> None:
    """Law 1: a refusal has a fault, the one that was put in on purpose among them, and its fix mends it."""
    codes = {fault.code for fault in faults}
    assert codes, "a refusal without a fault"
    assert case.aim in codes | BY_THE_MODEL | {None}, f"{case.aim} was put in, and {codes} found"
    tally.refuse(codes)
    mending_helps(case, faults, tally)


def mending_helps(case: Composition, faults: tuple[cp.Fault, ...], tally: Tally) -> None:
    """Law 1: applying the fix of a fault removes it."""
    listed = case.listed
    shared = len({algorithm.identity for algorithm in listed}) < len(listed)
    for fault in faults:
        # A remedy names its method, so those that share a name must be told apart first.
        if not fault.remedies or (shared and fault.code != "duplicate-id"):
            continue
        algorithms, facts = apply_changes(case.algorithms, case.facts, fault.remedies)
        key = fault.code, fault.algorithms
        before = Counter((other.code, other.algorithms) for other in faults)
        after = Counter((other.code, other.algorithms) for other in faults_of(algorithms, facts))
        assert after[key] < before[key], f"{fault} is not mended by {fault.remedies}"
        tally.count("1 fixes applied")


def faults_of(algorithms: Sequence[object], facts: dict[str, Any]) -> tuple[cp.Fault, ...]:
    try:
        cp.compose(algorithms, **facts)
    except cp.CompositionError as error:
        return error.faults
    return ()


def trains(case: Composition, plan: cp.Plan, tally: Tally) -> list[Tensor] | None:
    """Law 1, second half: an accepted plan runs three steps and an evaluation under the contract check.

    Returns the weights after them; ``None`` where the model is one that a method cannot work on, which is refused when
    the engine is made, before anything runs.
    """
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    late = case.aim == "late-surgery"
    try:
        engine = cp.Engine(plan, model=model, optimizer=optimizer if late else None)
    except cp.CompositionError as error:
        codes = {fault.code for fault in error.faults}
        assert case.aim is None or case.aim in codes, f"{case.aim} was put in, and {codes} found"
        tally.refuse(codes)
        return None
    assert case.aim is None, f"{case.aim} was put in, and nothing found"
    engine.optimizer = optimizer
    with engine.fit(), engine.epoch():
        for step in range(STEPS):
            train(engine, case, step)
            tally.count("1 batches trained")
        with engine.evaluation(), torch.no_grad():
            model.eval()
            assert torch.isfinite(model(plan.prepare(case.inputs(0), case.targets(0))[0])).all()
            tally.count("1 evaluations")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    return list(model.parameters())


def train(engine: cp.Engine, case: Composition, step: int) -> None:
    """Train on one batch, in as many parts as the facts say."""
    parts = case.facts["microbatches"]
    with engine.batch(case.inputs(step), case.targets(step)) as batch:

        def closure() -> Tensor:
            losses = []
            for inputs, targets in zip(batch.inputs.chunk(parts), batch.targets.chunk(parts), strict=True):
                with engine.forward():
                    outputs = engine.model(inputs)
                with engine.loss():
                    loss = loss_of(engine.plan, outputs.to(case.dtype), targets)
                with engine.backward():
                    # A batch in which every position is ignored has a mean of 0 / 0; its gradient is 0.
                    loss.backward()
                losses.append(loss.detach())
            return torch.stack(losses).mean()

        engine.step(closure)


def loss_of(plan: cp.Plan, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the plan's loss as one number; where there is no loss, the sum of the outputs."""
    return outputs.sum() if plan.loss_spec is None else plan.loss(outputs, targets).sum()
