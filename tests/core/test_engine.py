"""Events, spans and hooks: what runs when, what is restored, and what a hook may touch."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, MixUp
from counterpoint.core.run.dice import Dice
from tests.core.methods import LOG, Scale, Trace, Twice, check


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    LOG.clear()
    yield
    LOG.clear()


def make(plan: cp.Plan) -> tuple[cp.Engine, nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    return engine, model, torch.linspace(0, 1, 96).view(6, 1, 4, 4), torch.tensor([0, 1, 2, 3, 0, 1])


def train(engine: cp.Engine, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    with engine.batch(inputs, targets) as batch:

        def closure() -> Tensor:
            LOG.append("closure")
            loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
            loss.backward()
            return loss.detach()

        return engine.step(closure)


def test_hooks_run_in_their_places() -> None:
    engine, model, inputs, targets = make(check([Trace()]))
    with engine.fit(), engine.epoch():
        train(engine, model, inputs, targets)
        with engine.evaluation():
            LOG.append("evaluate")
    assert LOG == [
        "closure",
        "trace:before-update",
        "trace:after-update",
        "trace:enter",
        "evaluate",
        "trace:leave well",
    ]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_hook_learns_how_its_span_ended(error: type[BaseException]) -> None:
    engine, *_ = make(check([Trace(id="one"), Trace(id="two", after="one")]))
    with pytest.raises(error), engine.evaluation():
        raise error
    assert ["one:enter", "two:enter", f"two:leave {error.__name__}", f"one:leave {error.__name__}"] == LOG


def test_one_hook_that_fails_keeps_no_other_from_restoring() -> None:
    class Fails(cp.Algorithm[None], name="fails"):
        @cp.around(cp.Event.EVALUATION, writes="modules")
        def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
            yield
            raise RuntimeError("cannot restore")

    engine, *_ = make(check([Trace(), Fails(after="trace")]))
    with pytest.raises(RuntimeError, match="cannot restore"), engine.evaluation():
        pass
    assert LOG == ["trace:enter", "trace:leave RuntimeError"]


def test_a_hook_that_fails_to_start_lets_the_ones_before_restore() -> None:
    class Fails(cp.Algorithm[None], name="fails"):
        @cp.around(cp.Event.EVALUATION, writes="modules")
        def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
            if scope.step >= 0:
                raise RuntimeError("cannot start")
            yield

    engine, *_ = make(check([Trace(), Fails(after="trace")]))
    with pytest.raises(RuntimeError, match="cannot start"), engine.evaluation():
        LOG.append("evaluate")
    assert LOG == ["trace:enter", "trace:leave RuntimeError"]


def test_a_hook_that_yields_twice_is_an_error() -> None:
    class Yields(cp.Algorithm[None], name="yields"):
        @cp.around(cp.Event.EVALUATION, writes="modules")
        def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
            yield
            yield

    engine, *_ = make(check([Yields()]))
    with pytest.raises(cp.ContractError, match="yields more than once"), engine.evaluation():
        pass


def test_a_hook_that_does_not_yield_is_an_error() -> None:
    class Returns(cp.Algorithm[None], name="returns"):
        @cp.around(cp.Event.EVALUATION, writes="modules")
        def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
            if scope.step < 0:
                yield

    engine, *_ = make(check([Trace(), Returns(after="trace")]))
    with pytest.raises(cp.ContractError, match=r"returns.inside does not yield"), engine.evaluation():
        pass
    assert LOG == ["trace:enter", "trace:leave ContractError"]


@pytest.mark.slow
def test_who_acts_is_found_anew_where_chance_decides() -> None:
    """Also when more sets of methods have acted than are kept."""
    plan = check([Trace(id=f"trace{number}", p=0.5) for number in range(12)])
    engine, _, inputs, targets = make(plan)
    for step in range(300):
        LOG.clear()
        acting = [member.identity for member in plan.members if Dice(plan.facts.seed, step, 0).acts(member)]
        with engine.batch(inputs, targets):
            engine.step(lambda: torch.tensor(0.0))
        assert sorted(LOG[: len(acting)]) == sorted(f"{name}:before-update" for name in acting)
        assert len(LOG) == 2 * len(acting)


def test_after_hooks_run_only_when_the_span_ended_well() -> None:
    engine, _, inputs, targets = make(check([Trace()]))

    def fails() -> Tensor:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"), engine.batch(inputs, targets):
        engine.step(fails)
    assert LOG == []
    assert engine.batches == 0


def test_a_method_may_run_the_closure_more_than_once() -> None:
    engine, model, inputs, targets = make(check([Twice()]))
    once, plain, *_ = make(check([Scale(p=1e-300)]))
    train(engine, model, inputs, targets)
    assert LOG == ["closure", "closure"]
    LOG.clear()
    train(once, plain, inputs, targets)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_gradients_are_zeroed_before_each_run() -> None:
    engine, model, inputs, targets = make(check([]))
    reference, other, *_ = make(check([]))
    for _ in range(3):
        train(engine, model, inputs, targets)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(other(inputs), targets).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert reference.batches == 0


def test_conditions_switch_hooks_within_a_batch_and_not_outside() -> None:
    engine, model, inputs, targets = make(check([Trace(start="1ba", end="2ba")]))
    for _ in range(3):
        train(engine, model, inputs, targets)
    with engine.evaluation():
        pass
    assert LOG.count("trace:before-update") == 1
    assert LOG.count("trace:enter") == 1


def test_a_hook_sees_only_what_it_declared() -> None:
    class Nosy(cp.Algorithm[None], name="nosy"):
        @cp.after(cp.Event.STEP, reads="gradients")
        def look(self, state: object, scope: cp.Scope) -> None:
            assert scope.model is not None
            assert scope.optimizer is not None

    engine, model, inputs, targets = make(check([Nosy()]))
    with pytest.raises(cp.ContractError, match=r"nosy.look uses 'optimizer' .*reads='optimizer'"):
        train(engine, model, inputs, targets)


def test_a_hook_reads_the_loss_and_the_edited_batch() -> None:
    seen: dict[str, Any] = {}

    class Watch(cp.Algorithm[None], name="watch"):
        @cp.after(cp.Event.STEP, reads=("loss", "targets", "optimizer"))
        def look(self, state: object, scope: cp.Scope) -> None:
            seen.update(loss=scope.loss, targets=scope.batch.targets, optimizer=scope.optimizer, step=scope.step)

    engine, model, inputs, targets = make(check([Watch(), MixUp()]))
    loss = train(engine, model, inputs, targets)
    assert seen["loss"] is loss
    assert seen["targets"].shape == (6, 4)
    assert seen["optimizer"] is engine.optimizer
    assert seen["step"] == 0


def test_transforms_and_hooks_of_a_method_share_one_draw() -> None:
    seen: list[Any] = []

    class Both(cp.Algorithm[Tensor], name="both"):
        def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
            return rng.uniform()

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: Tensor) -> cp.Batch:
            seen.append(draws)
            return batch

        @cp.transform(targets=cp.INDEX, law=cp.Law.DISPLACE)
        def apply_to_targets(self, batch: cp.Batch, draws: Tensor) -> cp.Batch:
            seen.append(draws)
            return batch

        @cp.after(cp.Event.STEP, reads="loss")
        def look(self, state: object, scope: cp.Scope) -> None:
            seen.append(scope.draws)

    plan = check([Both()])
    assert plan.order == ("both.apply", "both.apply_to_targets", "both")
    engine, model, inputs, targets = make(plan)
    train(engine, model, inputs, targets)
    assert len(seen) == 3
    assert seen[0] is seen[1]
    assert seen[1] is seen[2]


def test_surgery_comes_before_the_optimizer() -> None:
    class Surgery(cp.Algorithm[None], name="surgery"):
        @cp.before(cp.Event.SETUP, writes="modules")
        def cut(self, state: object, scope: cp.Scope) -> None:
            assert isinstance(scope.model, nn.Sequential)
            scope.model[0] = nn.Linear(2, 3)

    plan, model = check([Surgery()]), nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(cp.CompositionError, match="make the engine first") as caught:
        cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    assert [(fault.code, fault.algorithms) for fault in caught.value.faults] == [("late-surgery", ("surgery",))]
    engine = cp.Engine(plan, model=model)
    assert model[0].out_features == 3
    with (
        pytest.raises(cp.CounterpointError, match="no optimizer yet"),
        engine.batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1])),
    ):
        engine.step(lambda: torch.tensor(0.0))


def test_a_model_that_does_not_fit_is_refused_by_all_who_mind_before_any_surgery() -> None:
    class Picky(cp.Algorithm[None], name="picky"):
        def misfits(self, model: nn.Module) -> list[cp.Fault]:
            code = "no-such-module" if self.id == "one" else "nothing-to-replace"
            return [cp.Fault(code, f"{self.identity} minds", "take another model", (self.identity,))]

        @cp.before(cp.Event.SETUP, writes="modules")
        def cut(self, state: object, scope: cp.Scope) -> None:
            raise AssertionError("the model was touched")

    plan = check([Picky(id="one"), Picky(id="two")])
    with pytest.raises(cp.CompositionError) as caught:
        cp.Engine(plan, model=nn.Linear(2, 2))
    found = [(fault.code, fault.message) for fault in caught.value.faults]
    assert found == [("no-such-module", "one minds"), ("nothing-to-replace", "two minds")]


@pytest.mark.parametrize("event", [cp.Event.FORWARD, cp.Event.LOSS, cp.Event.BACKWARD])
def test_a_span_that_a_method_needs_cannot_be_left_out_of_the_closure(event: cp.Event) -> None:
    class Inner(cp.Algorithm[None], name="inner"):
        @cp.before(event, writes="outputs")
        def look(self, state: object, scope: cp.Scope) -> None:
            LOG.append("looked")

    engine, model, inputs, targets = make(check([Inner(end="2ba")]))
    with pytest.raises(cp.EngineRequiredError, match=rf"inner acts at each {event.value}.*engine\.{event.value}\(\)"):
        train(engine, model, inputs, targets)
    with engine.batch(inputs, targets) as batch:

        def closure() -> Tensor:
            with engine.forward():
                outputs = model(batch.inputs)
            with engine.loss():
                loss = nn.functional.cross_entropy(outputs, batch.targets)
            with engine.backward():
                loss.backward()
            return loss.detach()

        engine.step(closure)
    assert LOG == ["closure", "looked"]
    engine.batches = 2
    train(engine, model, inputs, targets)
    assert LOG == ["closure", "looked", "closure"]


def test_the_update_can_be_someone_elses() -> None:
    updates: list[int] = []
    plan = check([])
    model = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = cp.Engine(plan, model=model, optimizer=optimizer, update=lambda: updates.append(1))
    with engine.batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1])):
        engine.step(lambda: torch.tensor(0.0))
    assert updates == [1]


def test_state_goes_to_flat_tensors_and_back() -> None:
    engine, model, inputs, targets = make(check([EMA(), MixUp()]))
    for _ in range(3):
        train(engine, model, inputs, targets)
    packed = {name: value.clone() for name, value in engine.state_dict().items()}
    assert set(packed) == {"batches", "origin", "ema.updates", "ema.weights.1.bias", "ema.weights.1.weight"}
    other, *_ = make(check([EMA(), MixUp()]))
    other.load_state_dict(packed)
    assert other.batches == 3
    for name, value in other.state_dict().items():
        assert torch.equal(value, packed[name])


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    engine, *_ = make(check([EMA()]))
    packed = {
        name: value if name == "origin" else torch.full_like(value, 7) for name, value in engine.state_dict().items()
    }
    before = {name: value.clone() for name, value in engine.state_dict().items()}
    wrong: list[Callable[[dict[str, Tensor]], object]] = [
        lambda state: state.pop("ema.updates"),
        lambda state: state.update({"swa.updates": torch.tensor(0)}),
        lambda state: state.update({"ema.weights.1.bias": torch.zeros(9)}),
    ]
    for spoil in wrong:
        spoiled = dict(packed)
        spoil(spoiled)
        with pytest.raises(cp.CheckpointError):
            engine.load_state_dict(spoiled)
        assert all(torch.equal(value, before[name]) for name, value in engine.state_dict().items())


def test_state_that_is_no_tensor_is_refused() -> None:
    class Counts(cp.Algorithm[None], name="counts"):
        def init(self, model: nn.Module) -> dict[str, int]:
            return {"count": 0}

        @cp.after(cp.Event.STEP, reads="loss")
        def look(self, state: object, scope: cp.Scope) -> None: ...

    engine, *_ = make(check([Counts()]))
    with pytest.raises(cp.DeclarationError, match=r"torch\.tensor"):
        engine.state_dict()


def test_draws_of_the_batch_at_hand_can_be_printed() -> None:
    engine, _, inputs, targets = make(check([MixUp(), Scale(p=1e-300)]))
    with engine.batch(inputs, targets):
        assert set(engine.draws()) == {"mixup"}
    assert engine.draws() == {}


def test_the_ranks_draw_independently() -> None:
    plan = check([MixUp()])
    inputs, targets = torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    edited = [plan(inputs, targets, step=0, rank=rank)[0] for rank in (0, 0, 1)]
    assert torch.equal(edited[0], edited[1])
    assert not torch.equal(edited[0], edited[2])


def test_shared_methods_draw_alike_on_every_rank() -> None:
    class Same(cp.Algorithm[Tensor], name="same", shared=True):
        def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
            return rng.uniform()

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: Tensor) -> cp.Batch:
            return batch.with_inputs(batch.inputs * draws)

    plan = check([Same()])
    assert "the same on every rank: same" in plan.explain()
    inputs, targets = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    assert torch.equal(plan(inputs, targets, step=3, rank=0)[0], plan(inputs, targets, step=3, rank=5)[0])


def test_a_loop_may_step_the_optimizer_itself() -> None:
    """Between the gradients that the optimizer is to use and what comes after its step."""

    class Doubled(cp.Algorithm[None], name="doubled"):
        @cp.before(cp.Event.UPDATE, writes="gradients")
        def double(self, state: object, scope: cp.Scope) -> None:
            scope.model[1].bias.grad.mul_(2)

        @cp.after(cp.Event.STEP, reads="parameters")
        def look(self, state: object, scope: cp.Scope) -> None:
            LOG.append(scope.model[1].bias.detach().clone())

    engine, model, inputs, targets = make(check([Doubled()]))
    train(engine, model, inputs, targets)
    wanted = LOG[-1]
    engine, model, inputs, targets = make(check([Doubled()]))
    start = model[1].bias.detach().clone()

    def closure() -> Tensor:
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss.detach()

    with engine.batch(inputs, targets), engine.update(closure) as loss:
        assert torch.equal(loss, nn.functional.cross_entropy(model(inputs), targets))
        assert torch.equal(model[1].bias, start)
        engine.optimizer.step()
    assert torch.equal(LOG[-1], wanted)
    assert torch.equal(model[1].bias, wanted)


def test_an_update_that_fails_leaves_no_step_behind() -> None:
    engine, _, inputs, targets = make(check([Trace()]))
    with pytest.raises(KeyboardInterrupt), engine.batch(inputs, targets), engine.update(lambda: torch.tensor(0.0)):
        raise KeyboardInterrupt
    assert LOG == ["trace:before-update"]
    assert engine.batches == 0


def test_an_engine_that_is_let_go_frees_its_model_at_once() -> None:
    engine, model, inputs, targets = make(check([EMA(), Trace(), MixUp()]))
    train(engine, model, inputs, targets)
    gone = weakref.ref(model)
    gc.disable()
    try:
        del engine, model
        assert gone() is None
    finally:
        gc.enable()


def test_the_drawing_of_the_loop_has_each_event_inside_the_span_that_it_names() -> None:
    lines = re.findall(r"^ {4,}((?:│   )*)([A-Z]{3,})\b", cp.Event.__doc__ or "", re.MULTILINE)
    assert [name.lower() for _, name in lines] == [event.value for event in cp.Event]
    spans: list[str] = []
    for bars, name in lines:
        del spans[bars.count("│") :]
        assert cp.Event(name.lower()).within == (spans[-1] if spans else "")
        spans.append(name.lower())
