"""State, errors and batches of a training loop: each is that of the moment, and not of an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import OneOf
from counterpoint.core.run.training.accumulation import Part, Passes

pytestmark = pytest.mark.kind("30")

FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 3, "inputs": "features"}
X, Y = torch.rand(4, 2), torch.tensor([0, 2, 1, 2])
SEEN: list[tuple[int, int]] = []


@dataclass
class Count:
    """A number of steps."""

    steps: Tensor


class Counts(cp.Algorithm[None], name="counts"):
    """Counts the steps."""

    def init(self, model: nn.Module) -> Count:
        return Count(torch.tensor(0))

    @cp.after(cp.Event.STEP, reads="parameters")
    def count(self, state: Count, scope: cp.Scope) -> None:
        state.steps += 1


class Notes(cp.Algorithm[None], name="notes"):
    """Notes the step and the number of batches of each forward pass and each update."""

    @cp.before(cp.Event.FORWARD, reads="modules")
    def forward(self, state: object, scope: cp.Scope) -> None:
        SEEN.append((scope.step, scope.batches))

    @cp.before(cp.Event.UPDATE, reads="gradients")
    def update(self, state: object, scope: cp.Scope) -> None:
        SEEN.append((scope.step, -scope.batches))


class Repeats(cp.Algorithm[None], name="repeats"):
    """Makes the passes, and fails after they have failed."""

    @cp.replace(cp.Event.STEP, reads="parameters")
    def step(self, state: object, scope: cp.Scope, run: Callable[[], Tensor]) -> Tensor:
        try:
            return run()
        except ValueError:
            return {}["no such key"]


class LooksEarly(cp.Algorithm[None], name="looks_early"):
    """Reads the loss before there is one."""

    @cp.before(cp.Event.STEP, reads="loss")
    def look(self, state: object, scope: cp.Scope) -> None:
        if scope.step:
            assert scope.loss is not None


def engine_for(*methods: object, loss: nn.Module | None = None) -> cp.Engine:
    plan = cp.compose(list(methods), loss=loss or nn.CrossEntropyLoss(), contract="off", **FACTS)
    model = nn.Linear(2, 3)
    return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def step_of(engine: cp.Engine) -> None:
    with engine.batch(X, Y) as batch:
        engine.step(Passes(engine, [Part(lambda: engine.model(batch.inputs), batch.targets)]))


def test_hooks_that_have_run_get_the_state_that_was_loaded() -> None:
    engine = engine_for(Counts())
    for _ in range(3):
        step_of(engine)
    (name,) = engine.state_dict().keys() - {"batches", "origin"}
    assert engine.state_dict()[name].item() == 3
    engine.load_state_dict({**engine.state_dict(), name: torch.tensor(10)})
    for _ in range(2):
        step_of(engine)
    assert engine.state_dict()[name].item() == 12


def test_a_loss_is_that_of_its_own_batch() -> None:
    engine = engine_for(LooksEarly())
    step_of(engine)
    with pytest.raises(cp.ContractError, match="looks_early needs the loss at step, before there is one"):
        step_of(engine)


def test_passes_and_updates_of_a_step_of_several_batches_see_theirs() -> None:
    engine = engine_for(Notes())
    engine.batches = 4
    SEEN.clear()
    with ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(engine.batch(X, Y))
        parts = [Part(lambda: engine.model(X), Y, batch=number) for number in (0, 1, 2)]
        engine.step(Passes(engine, parts))
        with engine.forward():  # a pass of the loop's own, outside of a closure
            engine.model(X)
    assert SEEN == [(4, 1), (5, 1), (6, 1), (4, -3), (6, 1)]


def test_an_error_that_follows_one_of_the_passes_is_named_with_the_first_batch() -> None:
    engine = engine_for(Repeats())

    def closure() -> Tensor:
        raise ValueError("of the passes")

    with ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(engine.batch(X, Y))
        with pytest.raises(cp.MethodError, match=r"repeats\.step failed at step 0: KeyError"):
            engine.step(closure)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_sum_is_reported_as_the_mean_over_all_samples(processes: int) -> None:
    engine = engine_for(loss=nn.CrossEntropyLoss(reduction="sum"))
    with engine.batch(X, Y):
        parts = [Part(lambda: engine.model(X[:3]), Y[:3]), Part(lambda: engine.model(X[3:]), Y[3:])]
        passes = Passes(engine, parts, processes=processes, add=lambda number: number * processes)
        mean, weight = passes.as_mean(torch.tensor(24.0))
    assert (float(mean), weight) == (24 / (4 * processes), 4.0)


class Needs(cp.Algorithm[None], name="needs"):
    """Doubles the inputs; a model of few inputs does not do."""

    least: int = 0

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs * 2)

    def misfits(self, model: nn.Module) -> list[cp.Fault]:
        wide = isinstance(model, nn.Linear) and model.in_features >= self.least
        return [] if wide else [cp.Fault("too-narrow", f"it needs {self.least} inputs", "use more", ("needs",))]


@pytest.mark.parametrize("needs", [(0, 9), (9, 0), (0, 0)])
def test_what_any_branch_of_a_choice_needs_of_the_model_is_checked(needs: tuple[int, int]) -> None:
    choice = OneOf(algorithms=[Needs(id=f"number_{place}", least=least) for place, least in enumerate(needs)])
    if max(needs) == 0:
        engine_for(choice)
        return
    with pytest.raises(cp.CompositionError, match="it needs 9 inputs"):
        engine_for(choice)


def test_a_state_that_was_made_in_inference_mode_can_be_changed_in_training() -> None:
    engine = engine_for(Counts())
    with torch.inference_mode(), engine.evaluation():
        pass
    step_of(engine)
    (name,) = engine.state_dict().keys() - {"batches", "origin"}
    assert engine.state_dict()[name].item() == 1


class Evaluates(cp.Algorithm[Tensor], name="evaluates"):
    """Notes its draws in a forward pass and in an evaluation."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.uniform()

    @cp.before(cp.Event.FORWARD, reads="modules")
    def forward(self, state: object, scope: cp.Scope) -> None:
        DRAWN.append(scope.draws)

    @cp.before(cp.Event.EVALUATION, reads="modules")
    def evaluation(self, state: object, scope: cp.Scope) -> None:
        DRAWN.append(scope.draws)


DRAWN: list[object] = []


def test_an_evaluation_within_a_batch_has_no_draws() -> None:
    engine = engine_for(Evaluates())
    DRAWN.clear()
    with engine.batch(X, Y):
        with engine.forward(), engine.evaluation():
            pass
        assert [engine.draws()["evaluates"], None] == DRAWN


class WritesAround(cp.Algorithm[None], name="writes_around"):
    """Doubles the gradients around the update and says that it reads them; or reads them indeed."""

    writes: bool = True

    @cp.around(cp.Event.UPDATE, reads="gradients")
    def wrap(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        if self.writes:
            for parameter in scope.model.parameters():
                assert parameter.grad is not None
                parameter.grad.data.mul_(2)
        yield


def test_a_write_before_a_span_that_a_hook_is_around_is_found() -> None:
    model = nn.Linear(2, 3)
    plan = cp.compose([WritesAround()], loss=nn.CrossEntropyLoss(), contract="always", **FACTS)
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(cp.ContractError, match=r"writes_around\.wrap writes gradients and does not declare it"):
        step_of(engine)


SCALER = torch.amp.GradScaler("cpu", init_scale=4.0)


@pytest.mark.parametrize("everywhere", [False, True], ids=["a variable of a function", "a variable of a module"])
def test_a_hook_around_the_update_sees_no_scaled_gradients(everywhere: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    engine = engine_for(WritesAround(writes=False))
    engine = cp.Engine(engine.plan, model=engine.model, optimizer=engine.optimizer, update=lambda: None)

    def closure() -> Tensor:
        loss = engine.plan.loss(engine.model(X), Y)
        scaler.scale(loss).backward()
        return loss.detach()

    def other() -> Tensor:
        loss = engine.plan.loss(engine.model(X), Y)
        SCALER.scale(loss).backward()
        return loss.detach()

    with engine.batch(X, Y), pytest.raises(cp.RunError, match="so writes_around would see scaled gradients"):
        engine.step(other if everywhere else closure)


class Twice(cp.Algorithm[None], name="twice"):
    """Makes the passes of a step two times."""

    @cp.replace(cp.Event.STEP, reads="parameters")
    def step(self, state: object, scope: cp.Scope, run: Callable[[], Tensor]) -> Tensor:
        run()
        return run()


def test_a_scaler_that_is_off_lets_a_method_make_the_passes_again() -> None:
    engine = engine_for(Twice())
    off = torch.amp.GradScaler("cpu", enabled=False)
    engine = cp.Engine(engine.plan, model=engine.model, optimizer=engine.optimizer, scaler=off)
    before = [parameter.detach().clone() for parameter in engine.model.parameters()]
    step_of(engine)
    assert not all(map(torch.equal, before, engine.model.parameters()))


@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_the_first_pass_of_an_optimizer_with_a_closure_is_that_of_the_step(evaluations: int) -> None:
    model = nn.Linear(2, 3)
    plan = cp.compose([], loss=nn.CrossEntropyLoss(), contract="off", **FACTS)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-3, max_iter=evaluations, max_eval=evaluations)
    engine, passes = cp.Engine(plan, model=model, optimizer=optimizer), []

    def closure() -> Tensor:
        passes.append(1)
        loss = plan.loss(model(X), Y)
        loss.backward()
        return loss.detach()

    with engine.batch(X, Y):
        engine.step(closure)
    assert len(passes) == evaluations


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gradients_are_synchronised_in_the_last_part_alone(count: int) -> None:
    engine, order = engine_for(), list[str]()

    @contextmanager
    def unsynced() -> Iterator[None]:
        order.append("alone")
        yield

    def forward() -> Tensor:
        order.append("part")
        return engine.model(X)

    with engine.batch(X, Y):
        engine.step(Passes(engine, [Part(forward, Y)] * count, unsynced=unsynced))
    assert order == ["alone", "part"] * (count - 1) + ["part"]
