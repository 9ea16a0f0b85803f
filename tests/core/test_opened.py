"""Several device batches under one optimizer step, and passes that a loop has made before it steps."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, ManifoldMixup, MixUp
from tests.core.methods import LOG, Trace, Twice


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    LOG.clear()
    yield
    LOG.clear()


def check(methods: list[Any]) -> cp.Plan:
    return cp.compose(methods, loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=4, seed=17)


def make(plan: cp.Plan) -> cp.Engine:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 4))
    return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def data(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.rand(6, 1, 4, 4, generator=generator), torch.arange(6) % 4


def backward(engine: cp.Engine, batch: cp.Batch) -> Tensor:
    with engine.forward():
        outputs = engine.model(batch.inputs)
    loss = engine.plan.loss(outputs, batch.targets) / 2
    loss.backward()
    return loss.detach()


class Seen(cp.Algorithm[Tensor], name="seen"):
    """Tells what its hooks see at a pass and at a step."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.uniform()

    @cp.before(cp.Event.FORWARD, reads="inputs")
    def forward(self, state: None, scope: cp.Scope) -> None:
        LOG.append(("forward", scope.step, float(scope.draws), scope.batch))

    @cp.after(cp.Event.STEP, reads=("loss", "inputs"))
    def stepped(self, state: None, scope: cp.Scope) -> None:
        LOG.append(("step", scope.step, float(scope.draws), float(scope.loss)))


def group(engine: cp.Engine, opened: ExitStack, count: int = 2) -> list[cp.Batch]:
    first = engine.batches
    return [opened.enter_context(engine.batch(*data(first + n))) for n in range(count)]


def test_each_batch_has_its_number_and_its_draws_and_passes_see_theirs() -> None:
    plan = check([Seen(), MixUp()])
    engine, alone = make(plan), make(plan)
    expected = []
    for number in range(4):
        with alone.batch(*data(number)) as batch:
            expected.append((number, float(alone.draws()["seen"]), batch))
    for step in range(2):
        with ExitStack() as opened:
            batches = group(engine, opened)

            def closure(batches: list[cp.Batch] = batches) -> Tensor:
                total = torch.zeros(())
                for index, batch in enumerate(batches):
                    with engine.on(index):
                        total += backward(engine, batch)
                return total

            loss = engine.step(closure)
        passes, (at, first, draw, reported) = LOG[:-1], LOG[-1]
        LOG.clear()
        assert [entry[:3] for entry in passes] == [("forward", *expected[2 * step + n][:2]) for n in range(2)]
        for entry, (_, _, wanted) in zip(passes, expected[2 * step : 2 * step + 2], strict=True):
            assert torch.equal(entry[3].inputs, wanted.inputs)
            assert torch.equal(entry[3].targets, wanted.targets)
        assert (at, first, draw, reported) == ("step", *expected[2 * step][:2], float(loss))
    assert engine.batches == 4


def test_a_step_over_several_batches_shows_its_hooks_none_of_them() -> None:
    class Looks(cp.Algorithm[None], name="looks"):
        @cp.after(cp.Event.STEP, reads="inputs")
        def look(self, state: None, scope: cp.Scope) -> None:
            LOG.append(len(scope.batch.inputs))

    engine = make(check([Looks()]))
    with engine.batch(*data(0)) as batch:
        engine.step(lambda: backward(engine, batch))
    assert LOG == [6]
    with pytest.raises(cp.ContractError, match="needs the batch at step"):
        train(engine)


def train(engine: cp.Engine) -> None:
    """A step over two batches, whose passes do not say which of them they are over."""
    with ExitStack() as opened:
        batches = group(engine, opened)
        engine.step(lambda: sum((backward(engine, batch) for batch in batches), torch.zeros(())))


def test_a_pass_that_could_be_over_either_is_refused_where_it_matters() -> None:
    train(make(check(["mixup", "ema"])))
    with pytest.raises(cp.RunError, match=r"manifold_mixup acts at each forward, and 2 device batches are open"):
        train(make(check([ManifoldMixup(module="1")])))


def test_a_pass_that_was_left_out_is_found_for_each_batch() -> None:
    engine = make(check([ManifoldMixup(module="1")]))
    with ExitStack() as opened:
        batches = group(engine, opened)

        def closure() -> Tensor:
            with engine.on(0):
                return backward(engine, batches[0])

        with pytest.raises(cp.EngineRequiredError, match="the passes over batch 1 fired none"):
            engine.step(closure)


def test_a_second_run_is_held_to_its_spans_too() -> None:
    engine, runs = make(check([ManifoldMixup(module="1"), Twice()])), iter([True, False])
    with engine.batch(*data(0)) as batch:

        def closure() -> Tensor:
            if next(runs):
                return backward(engine, batch)
            loss = engine.plan.loss(engine.model(batch.inputs), batch.targets)
            loss.backward()
            return loss.detach()

        with pytest.raises(cp.EngineRequiredError, match="the passes over batch 0 fired none"):
            engine.step(closure)


def test_spans_of_a_batch_that_failed_do_not_count_for_the_next() -> None:
    engine = make(check([ManifoldMixup(module="1")]))

    def fail() -> None:
        with engine.batch(*data(0)) as batch:
            backward(engine, batch)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    with engine.batch(*data(0)), pytest.raises(cp.EngineRequiredError, match="the passes over batch 0 fired none"):
        engine.step(lambda: torch.zeros(()), ran=torch.zeros(()))


def test_on_holds_for_its_context_alone() -> None:
    engine = make(check(["mixup"]))
    with ExitStack() as opened:
        group(engine, opened)
        last = engine.draws()["mixup"].perm
        with engine.on(0):
            assert not torch.equal(engine.draws()["mixup"].perm, last)
            with engine.on(1):
                assert torch.equal(engine.draws()["mixup"].perm, last)
            assert not torch.equal(engine.draws()["mixup"].perm, last)
        assert torch.equal(engine.draws()["mixup"].perm, last)


def test_the_average_moves_once_a_step_by_what_its_schedule_says() -> None:
    engine, wanted = make(check([EMA(half_life=10, every=2, warmup=False)])), {}
    for step in range(3):
        with ExitStack() as opened:
            batches = group(engine, opened)
            engine.step(lambda batches=batches: sum((backward(engine, b) for b in batches), torch.zeros(())))
        now = {name: value.clone() for name, value in engine.model.state_dict().items()}
        moved = 1 - 0.5 ** (2 / 10)
        wanted = {name: wanted[name].lerp(now[name], moved) for name in now} if step else now
    with engine.evaluation():
        for name, value in engine.model.state_dict().items():
            assert torch.equal(value, wanted[name])


def test_on_names_an_open_batch() -> None:
    engine = make(check([]))
    with engine.batch(*data(0)), pytest.raises(cp.RunError, match=r"engine.on\(1\): 1 device batches are open"):
        engine.on(1).__enter__()


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [({"every": 3}, [0, 1, 3, 4]), ({"start": "3ba"}, [1, 2, 3, 4, 5]), ({"end": "3ba"}, [0, 1])],
    ids=str,
)
def test_a_step_is_a_methods_if_one_of_its_batches_is(schedule: dict[str, Any], steps: list[int]) -> None:
    engine = make(check([EMA(**schedule)]))
    updated = []
    for step in range(6):
        with ExitStack() as opened:
            batches = group(engine, opened)
            before = int(engine.state_dict()["ema.updates"])
            total = sum((backward(engine, batch) for batch in batches), torch.zeros(()))
            engine.step(lambda total=total: total, ran=total)
            updated += [step] if int(engine.state_dict()["ema.updates"]) > before else []
    assert updated == steps


def test_batches_are_counted_one_by_one_and_not_where_the_span_failed() -> None:
    engine = make(check(["mixup"]))

    def fail() -> None:
        with ExitStack() as opened:
            group(engine, opened, 3)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert engine.batches == 0
    assert engine.draws() == {}
    with ExitStack() as opened:
        group(engine, opened, 3)
    assert engine.batches == 3
    with engine.batch(*data(3)) as outer:
        with engine.batch(*data(4)):
            pass
        with engine.batch(*data(5)) as last:
            drawn = engine.draws()["mixup"]
    fresh = make(check(["mixup"]))
    fresh.batches = 5
    with fresh.batch(*data(5)) as alone:
        assert torch.equal(fresh.draws()["mixup"].perm, drawn.perm)
    assert torch.equal(alone.inputs, last.inputs)
    assert not torch.equal(outer.inputs, last.inputs)


class TestPassesThatTheLoopHasMade:
    def run(self, engine: cp.Engine, *, ahead: bool) -> Tensor:
        """A step over two batches, the passes made as they come or in the closure."""
        with ExitStack() as opened:
            batches, loss = [], torch.zeros(())
            if ahead and engine.optimizer is not None:
                engine.optimizer.zero_grad()
            for number in range(2):
                batches.append(opened.enter_context(engine.batch(*data(number))))
                loss = loss + backward(engine, batches[-1]) if ahead else loss

            def closure() -> Tensor:
                LOG.append("closure")
                total = torch.zeros(())
                for index, batch in enumerate(batches):
                    with engine.on(index):
                        total = total + backward(engine, batch)
                return total

            return engine.step(closure, ran=loss if ahead else None)

    @pytest.mark.parametrize("methods", [["mixup", "ema"], [Twice()], ["sam"], [ManifoldMixup(module="1"), "sam"]])
    def test_they_count_as_the_first_run(self, methods: list[object]) -> None:
        ahead, within = make(check(methods)), make(check(methods))
        assert torch.equal(self.run(ahead, ahead=True), self.run(within, ahead=False))
        for one, other in zip(ahead.model.parameters(), within.model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_the_closure_runs_only_where_a_method_runs_it_again(self) -> None:
        self.run(make(check(["ema"])), ahead=True)
        assert LOG == []
        self.run(make(check(["sam"])), ahead=True)
        assert LOG == ["closure"]

    def test_a_method_that_acts_before_them_is_refused(self) -> None:
        class First(cp.Algorithm[None], name="first"):
            @cp.around(cp.Event.STEP, writes="modules")
            def inside(self, state: None, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
                yield

        self.run(make(check([First()])), ahead=False)
        with pytest.raises(cp.RunError, match="first acts before the passes of each step"):
            self.run(make(check([First()])), ahead=True)

    def test_spans_that_they_left_out_are_found(self) -> None:
        engine = make(check([ManifoldMixup(module="1")]))
        with engine.batch(*data(0)) as batch:
            loss = engine.plan.loss(engine.model(batch.inputs), batch.targets)
            loss.backward()
            with pytest.raises(cp.EngineRequiredError, match="fired none"):
                engine.step(lambda: loss.detach(), ran=loss.detach())

    def test_update_takes_them_too(self) -> None:
        engine = make(check([Trace()]))
        with engine.batch(*data(0)) as batch:
            loss = backward(engine, batch)
            with engine.update(lambda: loss, ran=loss) as found:
                LOG.append("body")
        assert found is loss
        assert LOG == ["trace:before-update", "body", "trace:after-update"]
