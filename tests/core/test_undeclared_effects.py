"""The contract finds, by default and in the first steps, what a method does and may not do.

Writes into tensors of the caller's, and draws from global generators. After the first steps, nothing of it is paid.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core.run.batch import contract, generators
from counterpoint.core.run.progress import CHECKED
from tests.algorithms.batches import images, plan_for, targets
from tests.algorithms.cases import CASES, EditCase

pytestmark = pytest.mark.kind("4")

Write = Callable[[Tensor], object]
WRITES: dict[str, Write] = {
    "in place": lambda tensor: tensor.mul_(2),
    "data": lambda tensor: tensor.data.add_(1),
    "numpy": lambda tensor: tensor.numpy().__iadd__(1),
    "view": lambda tensor: tensor[1:].zero_(),
    "detached": lambda tensor: tensor.detach()[..., -1:].fill_(3),
    "one number": lambda tensor: tensor.view(-1)[-1].add_(1),
}
DRAWS: dict[str, tuple[Callable[[], object], str]] = {
    "torch": (lambda: torch.rand(1), "torch"),
    "one normal": (lambda: torch.randn(1), "torch"),
    "seed": (lambda: torch.manual_seed(3), "torch"),
    "permutation": (lambda: torch.randperm(4), "torch"),
    "NumPy": (lambda: np.random.rand(), "NumPy"),  # noqa: NPY002
    "NumPy normal": (lambda: np.random.randn(), "NumPy"),  # noqa: NPY002
    "Python": (random.random, "Python"),
    "Python gauss": (lambda: random.gauss(0, 1), "Python"),
}


class Odd(cp.Algorithm[Any], name="odd"):
    """Does as the test says: in ``draw`` and in ``apply``."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Any:
        ACTIONS["draw"]()
        return rng.uniform()

    @cp.transform(inputs=cp.CONTINUOUS, targets=cp.MIXABLE, law=cp.Law.CONVEX)
    def apply(self, batch: cp.Batch, draws: Any) -> cp.Batch:
        return ACTIONS["apply"](batch)


def nothing(*given: Any) -> Any:
    return given[0] if given else None


ACTIONS: dict[str, Callable[..., Any]] = {}


@pytest.fixture(autouse=True)
def _actions() -> None:
    ACTIONS.update(draw=nothing, apply=nothing)


def odd_plan(**stated: Any) -> cp.Plan:
    return plan_for([Odd(), "cutout"], **stated)


@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("field", ["inputs", "targets"])
def test_a_write_into_a_tensor_of_the_callers_is_found_by_default(way: str, field: str) -> None:
    def apply(batch: cp.Batch) -> cp.Batch:
        WRITES[way](getattr(batch, field))
        return batch.with_inputs(batch.inputs + 0).with_targets(batch.targets + 0)

    ACTIONS["apply"] = apply
    message = rf"odd, at step 7: it writes into the {field}.*test_undeclared_effects\.py:\d+"
    with pytest.raises(cp.ContractError, match=message):
        plan_for([Odd()])(images(4), targets(4, dense=True), step=7)


def test_a_write_through_a_reference_that_the_method_kept_is_found() -> None:
    x, y = images(4), targets(4)

    def apply(batch: cp.Batch) -> cp.Batch:
        x.add_(1)
        return batch

    class Fresh(cp.Algorithm[None], name="fresh"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_inputs(batch.inputs * 2)

    ACTIONS["apply"] = apply
    plan = plan_for([Fresh(before="odd"), Odd()])
    assert plan.order.index("fresh") < plan.order.index("odd")
    with pytest.raises(cp.ContractError, match="odd, at step 0: it writes into a tensor that the caller gave"):
        plan(x, y, step=0)


def test_memory_that_was_donated_may_be_written_to_by_a_step_that_declares_it() -> None:
    def apply(batch: cp.Batch) -> cp.Batch:
        return batch.with_inputs(batch.inputs.mul_(2) if batch.writable else batch.inputs * 2)

    ACTIONS["apply"] = apply
    plan = odd_plan()
    for step in range(3):
        plan(images(4), targets(4), step=step, donate=True)
        plan(images(4), targets(4), step=step, repeat=True)


@pytest.mark.parametrize("where", ["draw", "apply"])
@pytest.mark.parametrize("way", DRAWS)
def test_a_draw_from_a_global_generator_is_found_by_default(way: str, where: str) -> None:
    call, generator = DRAWS[way]
    ACTIONS[where] = lambda *given: (call(), nothing(*given))[1]
    message = rf"odd.*at step 7.* draws from the global generator of {generator},"
    for _ in range(2):  # a normal number may come from what the last one left over
        torch.rand(1)
        with pytest.raises(cp.ContractError, match=message):
            odd_plan()(images(4), targets(4), step=7)


def test_every_method_of_a_plan_is_checked_on_the_first_batches_on_which_it_acts() -> None:
    class Late(cp.Algorithm[None], name="late"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            batch.inputs.add_(1)
            return batch.with_inputs(batch.inputs.clone())

    plan = plan_for([Late(start="5ba", before="cutout"), "cutout"])
    for step in range(5):
        plan(images(4), targets(4), step=step)
    for step in (5, 6):
        with pytest.raises(cp.ContractError, match=f"late, at step {step}"):
            plan(images(4), targets(4), step=step)
    plan(images(4), targets(4), step=7)


def test_both_branches_of_a_choice_are_checked() -> None:
    class Bad(cp.Algorithm[None], name="bad"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            torch.rand(1)
            return batch

    plan, caught = plan_for([{"name": "one_of", "algorithms": ["mixup", Bad()], "weights": [9, 1]}]), 0
    for step in range(60):
        try:
            plan(images(4), targets(4), step=step)
        except cp.ContractError:
            caught += 1
    assert caught == CHECKED


@pytest.mark.parametrize(("word", "count"), [("off", 0), ("first_steps", CHECKED), ("always", 5)])
def test_it_is_paid_for_in_the_first_steps_alone(word: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for module, name in ((contract, "checksum"), (generators, "_states")):
        kept = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, kept=kept, name=name: (calls.append(name), kept(*a))[1])
    plan, per_step = odd_plan(contract=word), []
    for step in range(5):
        calls.clear()
        plan(images(4), targets(4), step=step)
        per_step.append(len(calls))
    assert [bool(number) for number in per_step] == [step < count for step in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if isinstance(cases[0], EditCase)])
def test_every_built_in_method_passes(name: str) -> None:
    for case in CASES[name]:
        assert isinstance(case, EditCase)
        for task in case.tasks:
            plan = plan_for([case.algorithm], task, inputs=case.inputs[0])
            for step in range(CHECKED):
                plan(images(5, kind=case.inputs[0]), targets(5, task), step=step)
                plan(images(5, kind=case.inputs[0]), targets(5, task), step=step, donate=True, repeat=True)


class Hooked(cp.Algorithm[None], name="hooked"):
    """Does as the test says in a hook."""

    @cp.before(cp.Event.STEP, reads="inputs")
    def early(self, state: object, scope: cp.Scope) -> None:
        ACTIONS["apply"](scope.batch)

    @cp.after(cp.Event.EVALUATION, reads="parameters")
    def late(self, state: object, scope: cp.Scope) -> None:
        torch.rand(1)  # outside of batches a hook may draw: a new head has new weights


def engine_for(*methods: Any, **stated: Any) -> cp.Engine:
    plan = plan_for([*methods], **stated)
    model = nn.Sequential(nn.Flatten(), nn.Linear(105, 4))
    return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def step_of(engine: cp.Engine) -> None:
    with engine.batch(images(4), targets(4)) as batch:

        def closure() -> Tensor:
            loss = engine.plan.loss(engine.model(batch.inputs), batch.targets)
            loss.backward()
            return loss.detach()

        engine.step(closure)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda batch: torch.rand(1), "hooked.early draws from the global generator of torch,"),
        (lambda batch: np.random.rand(), "hooked.early draws from the global generator of NumPy,"),  # noqa: NPY002
        (lambda batch: batch.inputs.add_(1), "hooked.early writes into the inputs or targets of the batch"),
    ],
)
def test_a_hook_is_held_to_it_too(action: Callable[[cp.Batch], object], message: str) -> None:
    ACTIONS["apply"] = action
    engine = engine_for(Hooked())
    for _ in range(CHECKED):
        with pytest.raises(cp.ContractError, match=message):
            step_of(engine)
    step_of(engine)
    with engine.evaluation():
        pass
    engine = engine_for(Hooked(), contract="off")
    step_of(engine)


def test_draws_of_a_method_that_has_hooks_alone_are_checked() -> None:
    class Noise(cp.Algorithm[Tensor], name="noise"):
        def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
            return torch.rand(1)

        @cp.before(cp.Event.STEP, reads="parameters")
        def early(self, state: object, scope: cp.Scope) -> None:
            assert scope.draws is not None

    with pytest.raises(cp.ContractError, match=r"noise\.draw, at step 0, draws from the global generator of torch"):
        step_of(engine_for(Noise()))


def test_the_model_may_draw_where_a_method_asks_for_the_losses_and_the_method_may_not() -> None:
    class Noisy(nn.Sequential):
        def forward(self, given: Tensor) -> Tensor:
            return super().forward(given) + 0.01 * torch.randn(1)

    for rude in (False, True):
        ACTIONS["draw"] = partial(torch.rand, 1) if rude else nothing

        class Half(cp.Algorithm[None], name="half"):
            @cp.transform(
                inputs=cp.Edit(cp.IMAGES, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
                targets=cp.Edit(cp.MIXABLE | {cp.INDEX}, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
                unedited=True,
                sample_losses=True,
            )
            def apply(self, batch: cp.Batch, draws: None, losses: Callable[[], Tensor]) -> cp.Batch:
                ACTIONS["draw"]()
                kept = losses().argsort()[:2]
                return batch.with_inputs(batch.inputs[kept]).with_targets(batch.targets[kept])

        plan = plan_for([Half()])
        model = Noisy(nn.Flatten(), nn.Linear(105, 4))
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        if rude:
            with pytest.raises(cp.ContractError, match="half"), engine.batch(images(4), targets(4)):
                pass
        else:
            with engine.batch(images(4), targets(4)) as batch:
                assert len(batch.inputs) == 2


def test_draws_can_be_looked_at_without_being_checked_off() -> None:
    """Draws of `plan.draws` are checked like those of a batch."""
    ACTIONS["draw"] = lambda: torch.rand(1)
    with pytest.raises(cp.ContractError, match=r"odd\.draw"):
        odd_plan().draws(0, cp.BatchSpec(4, (3, 5, 7), 4))
