"""EMA: its formula against naive float64, what it averages, and that weights always come back."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, CutOut, LabelSmoothing, MixUp
from tests.algorithms.batches import bits, images, plan_for, targets
from tests.algorithms.training import train as train_in_parts


class Net(nn.Module):
    """Weights, batch norm's floating buffers and its counter."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return out


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def snapshot(model: nn.Module) -> dict[str, bytes]:
    return {name: bits(value) for name, value in tensors(model).items()}


def engine_for(model: nn.Module, *algorithms: object, **stated: Any) -> cp.Engine:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return cp.Engine(plan_for(algorithms, **stated), model=model, optimizer=optimizer)


def train(engine: cp.Engine, steps: int, after: Callable[[], None] = lambda: None) -> None:
    dtype = next(engine.model.parameters()).dtype
    for _ in range(steps):
        size = 4 + engine.batches % 3
        with engine.batch(images(size, dtype), targets(size)) as batch:
            inputs, wanted = batch.inputs, batch.targets

            def closure(inputs: Tensor = inputs, wanted: Tensor = wanted) -> Tensor:
                loss = engine.plan.loss(engine.model(inputs), wanted)
                loss.backward()
                return loss.detach()

            engine.step(closure)
        after()


def naive(history: list[dict[str, Any]], decays: list[float]) -> dict[str, Any]:
    """Return the average over a history of float64 values: ``decays[t]`` is how much update t keeps."""
    average = {name: np.zeros_like(value) for name, value in history[0].items()}
    for values, decay in zip(history, decays, strict=True):
        for name, value in values.items():
            average[name] = decay * average[name] + (1 - decay) * value
    return average


def recorded(model: nn.Module, history: list[dict[str, Any]]) -> Callable[[], None]:
    def record() -> None:
        floating = {name: value for name, value in tensors(model).items() if value.is_floating_point()}
        history.append({name: value.detach().double().numpy().copy() for name, value in floating.items()})

    return record


class TestFormula:
    @pytest.mark.parametrize(
        ("ema", "decays"),
        [
            (EMA(), [0, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15]),
            (EMA(decay=0.3), [0, 2 / 11, 3 / 12, 0.3, 0.3, 0.3]),
            (EMA(decay=0.3, warmup=False), [0, 0.3, 0.3, 0.3, 0.3, 0.3]),
            (EMA(half_life=1, warmup=False), [0, 0.5, 0.5, 0.5, 0.5, 0.5]),
            (EMA(half_life=2, warmup=False), [0, *[2**-0.5] * 5]),
            (EMA(half_life=2, decay=0.25, warmup=False), [0, *[0.25] * 5]),
        ],
        ids=["defaults", "warm-up to decay", "decay", "half-life 1", "half-life 2", "decay before half-life"],
    )
    def test_against_naive_float64(self, ema: EMA, decays: list[float]) -> None:
        model, history = Net().double(), []  # type: Net, list[dict[str, Any]]
        engine = engine_for(model, ema)
        train(engine, 6, recorded(model, history))
        with engine.evaluation():
            for name, wanted in naive(history, decays).items():
                np.testing.assert_allclose(tensors(model)[name].detach().numpy(), wanted, rtol=1e-14, atol=1e-15)

    def test_a_half_life_in_batches_whatever_every_is(self) -> None:
        assert EMA(half_life=60).per_update == pytest.approx(0.5 ** (1 / 60), rel=1e-15)
        assert EMA(half_life=60, every=4).per_update == pytest.approx(0.5 ** (4 / 60), rel=1e-15)
        assert EMA(decay=0.9, every=4).per_update == 0.9

    def test_half_lifes_halve(self) -> None:
        """A model that jumps from 0 to 1 is averaged to 1/2 after one half-life, to 3/4 after two."""
        model = nn.Linear(1, 1, bias=False).double()
        engine = engine_for(model, EMA(half_life=8, warmup=False))
        seen = []
        for step in range(1 + 16):
            with torch.no_grad():
                model.weight.fill_(0.0 if step == 0 else 1.0)
            with engine.batch(images(2), targets(2)):
                engine.step(lambda: torch.zeros(()))
            with engine.evaluation():
                seen.append(model.weight.item())
        assert [seen[0], seen[8], seen[16]] == pytest.approx([0.0, 0.5, 0.75], abs=1e-12)

    @pytest.mark.kind("7c")
    @pytest.mark.parametrize("together", [1, 2, 4, 8])
    @pytest.mark.parametrize(("settings", "acts"), [({}, 16), ({"every": 2}, 8), ({"start": "4ba"}, 12)], ids=str)
    def test_a_half_life_counts_device_batches_however_many_make_a_step(
        self, settings: dict[str, Any], acts: int, together: int
    ) -> None:
        """A model that is 0 in the first step and 1 in all later ones; a step of several batches decays for each."""
        model = nn.Linear(1, 1, bias=False).double()
        ema = EMA(half_life=8, warmup=False, **settings)
        engine = engine_for(model, ema)
        acting = [number for number in range(16) if number >= ema.start.value and number % ema.every == 0]
        assert len(acting) == acts
        first = acting[0] // together
        for step in range(16 // together):
            with torch.no_grad():
                model.weight.fill_(0.0 if step == first else 1.0)
            with ExitStack() as opened:
                for _ in range(together):
                    opened.enter_context(engine.batch(images(2), targets(2)))
                engine.step(lambda: torch.zeros(()))
        later = sum(number // together > first for number in acting)
        with engine.evaluation():
            assert model.weight.item() == pytest.approx(1 - 0.5 ** (later * ema.every / 8), abs=1e-12)

    @pytest.mark.kind("7c")
    def test_microbatches_of_one_device_batch_count_once(self) -> None:
        found = []
        for parts in (1, 4):
            model = Net().double().eval()
            engine = engine_for(model, EMA(half_life=8, warmup=False))
            train_in_parts(engine, 9, parts=parts)
            with engine.evaluation():
                found.append({name: value.detach().clone() for name, value in tensors(model).items()})
        for name, value in found[0].items():
            torch.testing.assert_close(value, found[1][name], rtol=0, atol=1e-12)

    def test_the_defaults(self) -> None:
        assert (EMA().half_life, EMA().decay, EMA().warmup) == (100.0, None, True)

    def test_it_runs_after_the_optimizer(self) -> None:
        model = nn.Linear(1, 1, bias=False)
        engine = engine_for(model, EMA())

        def closure() -> Tensor:
            model.weight.grad = torch.ones(1, 1)
            return torch.zeros(())

        with engine.batch(images(2), targets(2)):
            before = model.weight.item()
            engine.step(closure)
        assert model.weight.item() == pytest.approx(before - 0.1)
        with engine.evaluation():
            assert model.weight.item() == pytest.approx(before - 0.1)


class TestWhatIsAveraged:
    def test_batch_norms_buffers_follow(self) -> None:
        model, history = Net(), []  # type: Net, list[dict[str, Any]]
        engine = engine_for(model, EMA(decay=0.8, warmup=False))
        train(engine, 5, recorded(model, history))
        wanted = naive(history, [0, 0.8, 0.8, 0.8, 0.8])
        trained = model.norm.running_mean.clone()
        with engine.evaluation():
            for name in ("norm.running_mean", "norm.running_var"):
                np.testing.assert_allclose(tensors(model)[name].numpy(), wanted[name], rtol=1e-5, atol=1e-7)
            assert int(model.norm.num_batches_tracked) == 5
            assert (model.norm.running_mean - trained).abs().max() > 1e-4

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_weights_are_averaged_in_float32(self, dtype: torch.dtype) -> None:
        """Steps far below the spacing of half precision add up in float32, and vanish in half precision."""
        model = nn.Linear(1, 1, bias=False).to(dtype)
        engine = engine_for(model, EMA(decay=0.99, warmup=False))
        wanted = in_half = None
        for step in range(40):
            value = 1.0 if step == 0 else 1.0625
            with torch.no_grad():
                model.weight.fill_(value)
            with engine.batch(images(2), targets(2)):
                engine.step(lambda: torch.zeros(()))
            wanted = value if wanted is None else 0.99 * wanted + 0.01 * value
            start = torch.tensor(value, dtype=dtype)
            in_half = start if in_half is None else in_half * 0.99 + start * 0.01
        average = engine.state_dict()["ema.weights.weight"]
        assert average.dtype == torch.float32
        assert average.item() == pytest.approx(wanted, abs=1e-6)
        assert in_half is not None
        assert abs(in_half.item() - wanted) > 5e-3
        with engine.evaluation():
            assert model.weight.dtype == dtype
            assert model.weight.item() == torch.tensor(wanted).to(dtype).item()

    def test_tied_weights_stay_tied(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        model[1].weight = model[0].weight
        engine = engine_for(model, EMA(decay=0.5, warmup=False))
        for value in (1.0, 2.0):
            with torch.no_grad():
                model[0].weight.fill_(value)
            with engine.batch(images(2), targets(2)):
                engine.step(lambda: torch.zeros(()))
        with engine.evaluation():
            assert model[0].weight is model[1].weight
            assert set(model[0].weight.flatten().tolist()) == {1.5}

    def test_frozen_weights_stay(self) -> None:
        model = Net()
        model.conv.requires_grad_(False)
        engine = engine_for(model, EMA())
        before = bits(model.conv.weight)
        train(engine, 3)
        with engine.evaluation():
            assert bits(model.conv.weight) == before


class TestSwap:
    def trained(self, *algorithms: object) -> tuple[Net, cp.Engine]:
        model = Net()
        engine = engine_for(model, EMA(decay=0.9, warmup=False), *algorithms)
        train(engine, 3)
        with torch.no_grad():  # values that arithmetic would not bring back
            model.head.bias[:3] = torch.tensor([-0.0, float("nan"), 1e-45])
        return model, engine

    @pytest.mark.parametrize(
        "error",
        [None, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, StopIteration, MemoryError],
        ids=lambda error: "no error" if error is None else error.__name__,
    )
    def test_weights_come_back_bit_for_bit_whatever_happens(self, error: type[BaseException] | None) -> None:
        model, engine = self.trained()
        before = snapshot(model)
        raised = error("stop") if error is not None else None
        caught = None
        try:
            with engine.evaluation():
                assert snapshot(model) != before
                if raised is not None:
                    raise raised
        except BaseException as found:  # noqa: BLE001 - the test raises interrupts and exits itself
            caught = found
        assert caught is raised
        assert snapshot(model) == before

    def test_weights_come_back_from_an_evaluation_that_edits_them(self) -> None:
        model, engine = self.trained()
        before = snapshot(model)
        with engine.evaluation(), torch.no_grad():
            for value in tensors(model).values():
                value.zero_()
        assert snapshot(model) == before

    def test_parameters_stay_the_objects_that_the_optimizer_holds(self) -> None:
        model, engine = self.trained()
        before = {name: (id(value), value.data_ptr()) for name, value in tensors(model).items()}
        with engine.evaluation():
            assert {name: (id(value), value.data_ptr()) for name, value in tensors(model).items()} == before
        assert {name: (id(value), value.data_ptr()) for name, value in tensors(model).items()} == before

    def test_another_hook_that_fails_does_not_keep_weights_from_coming_back(self) -> None:
        class Failing(cp.Algorithm[None], name="failing"):
            @cp.around(cp.Event.EVALUATION, reads="loss")
            def watch(self, state: object, scope: cp.Scope) -> Any:
                yield
                raise ZeroDivisionError

        for order in ([Failing(), EMA(decay=0.5)], [EMA(decay=0.5), Failing()]):
            model = Net()
            engine = engine_for(model, *order)
            train(engine, 2)
            before = snapshot(model)
            with pytest.raises(cp.MethodError) as caught, engine.evaluation():
                assert snapshot(model) != before
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert snapshot(model) == before

    def test_evaluating_between_steps_changes_nothing(self) -> None:
        models = Net(), Net()
        engines = [engine_for(model, EMA()) for model in models]

        def evaluate() -> None:
            with engines[1].evaluation(), torch.no_grad():
                models[1].eval()(images(3))
                models[1].train()

        train(engines[0], 6)
        train(engines[1], 6, evaluate)
        assert snapshot(models[0]) == snapshot(models[1])
        states = [engine.state_dict() for engine in engines]
        assert {name: bits(value) for name, value in states[0].items()} == {
            name: bits(value) for name, value in states[1].items()
        }

    def test_before_the_first_update_there_is_nothing_to_swap(self) -> None:
        model = Net()
        engine = engine_for(model, EMA(start="5ba"))
        train(engine, 3)
        before = snapshot(model)
        with engine.evaluation():
            assert snapshot(model) == before

    def test_the_weights_without_it_are_the_same(self) -> None:
        with_ema, without = Net(), Net()
        train(engine_for(with_ema, EMA(), "mixup"), 4)
        train(engine_for(without, "mixup"), 4)
        assert snapshot(with_ema) == snapshot(without)


class TestState:
    def test_it_goes_through_safetensors_and_training_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        whole = Net()
        uninterrupted = engine_for(whole, EMA(every=2), "mixup")
        train(uninterrupted, 9)

        first = Net()
        engine = engine_for(first, EMA(every=2), "mixup")
        train(engine, 5)
        assert engine.optimizer is not None
        save_file(engine.state_dict(), tmp_path / "methods.safetensors")
        torch.save((first.state_dict(), engine.optimizer.state_dict()), tmp_path / "rest.pt")

        second = Net(seed=1)
        resumed = engine_for(second, EMA(every=2), "mixup")
        assert resumed.optimizer is not None
        weights, momenta = torch.load(tmp_path / "rest.pt", weights_only=True)
        second.load_state_dict(weights)
        resumed.optimizer.load_state_dict(momenta)
        resumed.load_state_dict(load_file(tmp_path / "methods.safetensors"))
        train(resumed, 4)

        assert snapshot(second) == snapshot(whole)
        assert {name: bits(value) for name, value in resumed.state_dict().items()} == {
            name: bits(value) for name, value in uninterrupted.state_dict().items()
        }
        with resumed.evaluation(), uninterrupted.evaluation():
            assert snapshot(second) == snapshot(whole)

    def test_channels_last_weights_can_be_saved(self, tmp_path: Path) -> None:
        model = Net()
        model.to(memory_format=torch.channels_last)
        engine = engine_for(model, EMA())
        train(engine, 2)
        save_file(engine.state_dict(), tmp_path / "methods.safetensors")
        saved = load_file(tmp_path / "methods.safetensors")
        with engine.evaluation():
            assert bits(saved["ema.weights.conv.weight"]) == bits(model.conv.weight)
        other = engine_for(Net(seed=1).to(memory_format=torch.channels_last), EMA())
        other.load_state_dict(saved)
        assert {name: bits(value) for name, value in other.state_dict().items()} == {
            name: bits(value) for name, value in saved.items()
        }

    def test_it_holds_every_value_of_the_model_and_the_count(self) -> None:
        model = Net()
        engine = engine_for(model, EMA(id="slow"))
        train(engine, 3)
        state = engine.state_dict()
        wanted = {"batches", "origin", "slow.updates", *(f"slow.weights.{name}" for name in tensors(model))}
        assert set(state) == wanted
        assert (int(state["batches"]), int(state["slow.updates"])) == (3, 3)

    def test_it_does_not_share_memory_with_the_model(self) -> None:
        model = Net()
        engine = engine_for(model, EMA())
        train(engine, 1)
        owned = {value.data_ptr() for value in tensors(model).values()}
        assert owned.isdisjoint(value.data_ptr() for value in engine.state_dict().values())

    @pytest.mark.parametrize("broken", ["missing", "unknown", "reshaped"])
    def test_a_state_that_does_not_fit_changes_nothing(self, broken: str) -> None:
        engine = engine_for(Net(), EMA())
        train(engine, 2)
        before = {name: bits(value) for name, value in engine.state_dict().items()}
        wrong = {name: value.clone() + 1 for name, value in engine.state_dict().items()}
        if broken == "missing":
            del wrong["ema.weights.head.bias"]
        elif broken == "unknown":
            wrong["swa.weights.head.bias"] = torch.zeros(4)
        else:
            wrong["ema.weights.head.bias"] = torch.zeros(5)
        with pytest.raises(cp.CheckpointError):
            engine.load_state_dict(wrong)
        assert {name: bits(value) for name, value in engine.state_dict().items()} == before


def test_two_owners_of_the_evaluation_weights_are_refused() -> None:
    with pytest.raises(cp.CompositionError) as caught:
        plan_for([EMA(id="fast"), EMA(id="slow")])
    assert [fault.code for fault in caught.value.faults] == ["two-owners"]


def test_it_composes_with_every_order_of_the_others() -> None:
    orders = {
        plan_for(list(listed)).fingerprint
        for listed in itertools.permutations([EMA(), MixUp(), CutOut(), LabelSmoothing()])
    }
    assert len(orders) == 1
