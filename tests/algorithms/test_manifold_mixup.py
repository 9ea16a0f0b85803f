"""Manifold mixup against float64 loops through a small network, and what must not go wrong silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, CutOut, LabelSmoothing, ManifoldMixup, MixUp
from counterpoint.trainer.trainer import Trainer

Array = NDArray[np.float64]
CLASSES = 3


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES)).to(dtype)


def composed(*algorithms: object, **settings: Any) -> cp.Plan:
    stated = {"loss": nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": CLASSES, "seed": 17}
    return cp.compose(list(algorithms), **{**stated, "contract": "always", **settings})


def engine_of(plan: cp.Plan, model: nn.Module | None = None) -> cp.Engine:
    model = network() if model is None else model
    return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def data(step: int, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 1, 2, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (size,), generator=generator)


def closure_of(engine: cp.Engine, batch: cp.Batch, seen: list[Tensor] | None = None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        with engine.forward():
            outputs = engine.model(batch.inputs)
        if seen is not None:
            seen.append(outputs.detach())
        with engine.loss():
            loss = engine.plan.loss(outputs, batch.targets)
        with engine.backward():
            loss.backward()
        return loss.detach()

    return closure


def train(engine: cp.Engine, steps: range) -> list[Tensor]:
    seen: list[Tensor] = []
    for step in steps:
        with engine.batch(*data(step)) as batch:
            engine.step(closure_of(engine, batch, seen))
    return seen


def layers(model: nn.Module) -> list[Array]:
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


def mixed(rows: Array, lam: float, partners: list[int]) -> Array:
    return np.array([lam * rows[i] + (1 - lam) * rows[j] for i, j in enumerate(partners)])


def naive_forward(weights: list[Array], x: Array, lam: float, partners: list[int], at: str) -> Array:
    first, first_bias, second, second_bias = weights
    h = x.reshape(len(x), -1)
    h = mixed(h, lam, partners) if at == "0" else h
    h = np.array([first @ row + first_bias for row in h])
    h = mixed(h, lam, partners) if at == "1" else h
    h = np.tanh(h)
    h = mixed(h, lam, partners) if at == "2" else h
    h = np.array([second @ row + second_bias for row in h])
    return mixed(h, lam, partners) if at == "3" else h


@pytest.mark.parametrize("name", ["0", "1", "2", "3"])
def test_outputs_targets_and_loss_against_loops(name: str) -> None:
    plan = composed(ManifoldMixup(module=name, alpha=1.0))
    engine = engine_of(plan)
    for step in range(4):
        x, y = data(step)
        weights, seen = layers(engine.model), []
        with engine.batch(x, y) as batch:
            draws = engine.draws()["manifold_mixup"]
            lam, partners = float(draws.lam), draws.perm.tolist()
            loss = engine.step(closure_of(engine, batch, seen))
        assert batch.inputs is x
        wanted = naive_forward(weights, x.numpy(), lam, partners, name)
        np.testing.assert_allclose(seen[0].numpy(), wanted, rtol=0, atol=1e-13)
        rows = mixed(np.eye(CLASSES)[y.numpy()], lam, partners)
        np.testing.assert_allclose(batch.targets.numpy(), rows, rtol=0, atol=1e-7)
        logs = wanted - np.log(np.exp(wanted).sum(1, keepdims=True))
        assert float(loss) == pytest.approx(-(rows * logs).sum() / len(rows), abs=1e-6)


def test_gradients_go_through_the_mixture() -> None:
    engine = engine_of(composed(ManifoldMixup(module="1", alpha=1.0)))
    twin = network()
    with engine.batch(*data(0)) as batch:
        draws = engine.draws()["manifold_mixup"]
        hidden = twin[1](batch.inputs.flatten(1))
        hidden = draws.lam * hidden + (1 - draws.lam) * hidden[draws.perm]
        nn.functional.cross_entropy(twin[3](hidden.tanh()), batch.targets.double()).backward()
        closure_of(engine, batch)
        engine.step(closure_of(engine, batch))
    for parameter, other in zip(engine.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-7)


def test_of_several_modules_each_is_drawn_and_used() -> None:
    engine = engine_of(composed(ManifoldMixup(module=["0", "2"], alpha=1.0)))
    drawn = set()
    for step in range(12):
        weights, seen = layers(engine.model), []
        x, y = data(step)
        with engine.batch(x, y) as batch:
            draws = engine.draws()["manifold_mixup"]
            engine.step(closure_of(engine, batch, seen))
        at = ["0", "2"][int(draws.module)]
        wanted = naive_forward(weights, x.numpy(), float(draws.lam), draws.perm.tolist(), at)
        np.testing.assert_allclose(seen[0].numpy(), wanted, rtol=0, atol=1e-13)
        drawn.add(at)
    assert drawn == {"0", "2"}


def test_alpha_0_is_the_identity_and_one_sample_mixes_with_itself() -> None:
    for algorithm, size in ((ManifoldMixup(module="1", alpha=0.0), 5), (ManifoldMixup(module="1"), 1)):
        engine, seen = engine_of(composed(algorithm)), []
        x, y = data(0, size)
        plain = engine.model(x)
        with engine.batch(x, y) as batch:
            engine.step(closure_of(engine, batch, seen))
        torch.testing.assert_close(seen[0], plain, rtol=0, atol=1e-14)
        assert torch.equal(batch.targets.argmax(1), y)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_evaluation_is_not_mixed_and_no_hook_stays() -> None:
    engine = engine_of(composed(ManifoldMixup(module="1")))
    train(engine, range(2))
    assert hooks(engine.model) == 0
    x, _ = data(9)
    with engine.evaluation():
        wanted = naive_forward(layers(engine.model), x.numpy(), 1.0, list(range(len(x))), "")
        np.testing.assert_allclose(engine.model(x).detach().numpy(), wanted, rtol=0, atol=1e-13)


def test_the_hook_goes_also_when_the_forward_pass_fails() -> None:
    engine = engine_of(composed(ManifoldMixup(module="1")))
    there: list[int] = []

    def fail(module: nn.Module, inputs: object) -> None:
        there.append(hooks(engine.model))
        raise ZeroDivisionError

    engine.model[2].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError), engine.batch(*data(0)) as batch:
        engine.step(closure_of(engine, batch))
    assert there == [1]
    assert hooks(engine.model) == 0


@pytest.mark.kind("30")
def test_a_forward_pass_that_fails_before_the_module_raises_its_own_error() -> None:
    engine = engine_of(composed(ManifoldMixup(module="2")))

    def fail(module: nn.Module, inputs: object) -> None:
        raise ZeroDivisionError

    engine.model[1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError), engine.batch(*data(0)) as batch:
        engine.step(closure_of(engine, batch))
    assert hooks(engine.model) == 0


@pytest.mark.kind("30")
@pytest.mark.parametrize("name", ["0", "1.0"])
def test_a_module_of_two_names_is_mixed_under_each(name: str) -> None:
    shared = nn.Flatten()
    model = nn.Sequential(shared, nn.Sequential(nn.Linear(4, CLASSES).double()))
    model[1].insert(0, shared)
    with pytest.raises(cp.RunError, match=f"the module '{name}' ran twice"):
        train(engine_of(composed(ManifoldMixup(module=name)), model), range(1))


def test_on_batches_that_it_skips_nothing_is_mixed() -> None:
    engine, seen = engine_of(composed(ManifoldMixup(module="1", start="1ba"))), []
    x, y = data(0)
    plain = engine.model(x)
    with engine.batch(x, y) as batch:
        engine.step(closure_of(engine, batch, seen))
    assert torch.equal(seen[0], plain)
    assert torch.equal(batch.targets, torch.eye(CLASSES)[y])


class Twice(cp.Algorithm[None], name="twice"):
    """Runs the closure twice, as SAM does."""

    @cp.replace(cp.Event.STEP, writes=("parameters", "gradients"), claims=cp.OPTIMIZER_STEP)
    def run_twice(self, state: object, scope: cp.Scope, run: Callable[[], Tensor]) -> Tensor:
        first = run()
        run()
        return first


def test_a_second_pass_over_the_batch_is_mixed_alike() -> None:
    engine, seen = engine_of(composed(ManifoldMixup(module="1", alpha=1.0), Twice())), []
    plain = engine.model(data(0)[0])
    with engine.batch(*data(0)) as batch:
        engine.step(closure_of(engine, batch, seen))
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], plain)


class TestWhatIsRefused:
    def codes(self, *algorithms: object, **settings: Any) -> list[str]:
        with pytest.raises(cp.CompositionError) as caught:
            engine_of(composed(*algorithms, **settings))
        return [fault.code for fault in caught.value.faults]

    def test_another_mixer(self) -> None:
        assert self.codes(ManifoldMixup(module="1"), MixUp()) == ["two-mixers"]
        engine = engine_of(composed(ManifoldMixup(module="1", end="3ba"), MixUp(start="3ba")))
        train(engine, range(5))

    def test_microbatches(self) -> None:
        assert self.codes(ManifoldMixup(module="1"), microbatches=2) == ["microbatches"]

    def test_a_choice(self) -> None:
        choice = {"name": "one_of", "algorithms": [{"name": "manifold_mixup", "module": "1"}, "mixup"]}
        assert self.codes(choice) == ["branch-hook"]

    def test_a_loss_that_takes_indices_alone(self) -> None:
        assert self.codes(ManifoldMixup(module="1"), loss=lambda a, b: a.sum(), loss_accepts={"index"}) == [
            "loss-targets"
        ]

    def test_a_module_that_is_not_there(self) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            engine_of(composed(ManifoldMixup(module=["head.weight", "heat", "body"])), Named())
        assert [fault.code for fault in caught.value.faults] == ["no-such-module"] * 2
        assert "'heat', and the model (Named) has no module of that name; did you mean 'head'?" in str(caught.value)

    def test_the_model_itself(self) -> None:
        assert self.codes(ManifoldMixup(module="")) == ["no-such-module"]

    def test_no_module(self) -> None:
        with pytest.raises(ValueError, match="module"):
            ManifoldMixup(module=[])


class Named(nn.Module):
    """Modules that run twice, never run, give a tuple, give one number, and fold."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.act = nn.Linear(4, 6), nn.Linear(6, CLASSES), nn.ReLU()
        self.idle, self.pair, self.fold, self.total = nn.Identity(), Pair(), nn.Flatten(0), Total()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.pair(self.act(self.body(x.flatten(1))))
        out: Tensor = self.head(self.act(self.fold(h).view_as(h))) + self.total(h)
        return out


class Total(nn.Module):
    """Gives one number."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


class Pair(nn.Module):
    """Gives two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class TestWhatWouldGoWrongSilently:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("idle", "'idle' did not run"),
            ("act", "'act' ran twice"),
            ("pair", "'pair' gives tuple"),
            ("total", r"'total' gives a tensor of shape \(\) for a device batch of 6"),
            ("fold", r"'fold' gives a tensor of shape \(36,\) for a device batch of 6"),
        ],
    )
    def test_a_module_whose_output_cannot_be_mixed_once(self, name: str, words: str) -> None:
        engine = engine_of(composed(ManifoldMixup(module=name)), Named())
        with pytest.raises(cp.RunError, match=words), engine.batch(*data(0)) as batch:
            engine.step(closure_of(engine, batch))
        assert hooks(engine.model) == 0

    def test_microbatches_that_nobody_stated(self) -> None:
        engine = engine_of(composed(ManifoldMixup(module="1")))
        with pytest.raises(cp.RunError, match="not in microbatches"), engine.batch(*data(0)) as batch, engine.forward():
            engine.model(batch.inputs[:3])

    def test_a_loop_that_fires_no_forward_span(self) -> None:
        engine = engine_of(composed(ManifoldMixup(module="1")))
        with pytest.raises(cp.EngineRequiredError, match=r"engine\.forward\(\)"), engine.batch(*data(0)) as batch:
            engine.step(lambda: engine.plan.loss(engine.model(batch.inputs), batch.targets))

    def test_a_call_without_an_engine(self) -> None:
        with pytest.raises(cp.EngineRequiredError, match="manifold_mixup"):
            composed(ManifoldMixup(module="1"))(*data(0), step=0)


def test_it_resumes_bit_for_bit_beside_others() -> None:
    plan = composed(LabelSmoothing(), ManifoldMixup(module=["1", "2"], p=0.7), EMA(half_life=2), CutOut())
    whole, first, second = engine_of(plan), engine_of(plan), engine_of(plan)
    train(whole, range(6))
    train(first, range(3))
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    assert first.optimizer is not None
    assert second.optimizer is not None
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    train(second, range(3, 6))
    for name, value in {**whole.model.state_dict(), **whole.state_dict()}.items():
        assert torch.equal(value, {**second.model.state_dict(), **second.state_dict()}[name]), name


def test_smoothing_commutes_with_it() -> None:
    one = composed(LabelSmoothing(), ManifoldMixup(module="1"))
    other = composed(ManifoldMixup(module="1"), LabelSmoothing())
    assert one.fingerprint == other.fingerprint
    assert not one.pairs


CONFIG = {"task": "multiclass", "data": "digits", "model": {"name": "mlp", "hidden": 16}, "max_duration": "2ba"}


class TestTheTrainer:
    def test_it_trains_on_digits(self) -> None:
        summary = Trainer({**CONFIG, "algorithms": [{"name": "manifold_mixup", "module": "2"}]}).fit()
        assert summary.steps == 2

    def test_its_accumulation_is_refused(self) -> None:
        method = {"name": "manifold_mixup", "module": "2"}
        with pytest.raises(cp.CompositionError, match="`accumulate: 1`") as caught:
            Trainer({**CONFIG, "algorithms": [method], "accumulate": 2})
        assert [fault.code for fault in caught.value.faults] == ["microbatches"]

    def test_a_wrong_module_is_found_before_anything_is_written(self, tmp_path: Any) -> None:
        method = {"name": "manifold_mixup", "module": "layer4"}
        with pytest.raises(cp.CompositionError, match="'layer4'"):
            Trainer({**CONFIG, "algorithms": [method], "run_dir": str(tmp_path / "run")})
        assert not (tmp_path / "run").exists()
