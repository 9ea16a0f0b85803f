"""SWA: its average against a naive mean, when it starts, what it leaves alone, and that it is not alone beside EMA."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

import counterpoint as cp
from counterpoint.algorithms import EMA, SAM, SWA, CutOut, GradientClipping, MixUp
from tests.algorithms.batches import bits, images, plan_for, targets
from tests.algorithms.training import Net, engine_for, snapshot, tensors, train


def history_of(model: nn.Module, engine: cp.Engine, steps: int) -> list[dict[str, Any]]:
    """Train and return the values after each step, floating ones in float64."""
    history: list[dict[str, Any]] = []

    def record() -> None:
        history.append({name: value.detach().double().numpy().copy() for name, value in tensors(model).items()})

    train(engine, steps, after=record)
    return history


class TestAverage:
    @pytest.mark.parametrize(
        ("settings", "counted"),
        [
            ({}, [9, 10, 11]),
            ({"start": "0.5dur"}, [6, 7, 8, 9, 10, 11]),
            ({"start": "2ep", "every": 2}, [8, 10]),
            ({"start": "3ba", "every": 4}, [3, 7, 11]),
            ({"start": "3ba", "end": "5ba"}, [3, 4]),
            ({"start": "0ba"}, list(range(12))),
        ],
        ids=str,
    )
    def test_against_a_naive_mean(self, settings: dict[str, Any], counted: list[int]) -> None:
        model = Net().double()
        engine = engine_for(model, SWA(**settings), steps_per_epoch=4, max_duration="3ep")
        history = history_of(model, engine, 12)
        with engine.evaluation():
            for name, value in tensors(model).items():
                if value.is_floating_point():
                    wanted = sum(history[step][name] for step in counted) / len(counted)
                    np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=0, atol=1e-13, err_msg=name)
            assert int(model.norm.num_batches_tracked) == counted[-1] + 1

    def test_against_torch(self) -> None:
        model = Net().double()
        averaged = AveragedModel(model, use_buffers=True)
        engine = engine_for(model, SWA(start="0ba"))
        train(engine, 7, after=lambda: averaged.update_parameters(model))
        with engine.evaluation():
            for name, value in tensors(averaged.module).items():
                if not value.is_floating_point():
                    continue  # torch averages counts too
                torch.testing.assert_close(tensors(model)[name], value, rtol=0, atol=1e-13, msg=name)

    @pytest.mark.slow
    def test_many_updates_stay_exact(self) -> None:
        model = nn.Linear(1, 1, bias=False)
        engine = engine_for(model, SWA(start="0ba"), contract="off")
        values = np.cos(np.arange(2000.0))
        for value in values:
            with torch.no_grad():
                model.weight.fill_(value)
            with engine.batch(images(2), targets(2)):
                engine.step(lambda: torch.zeros(()))
        with engine.evaluation():
            assert model.weight.item() == pytest.approx(values.mean(), abs=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision_is_averaged_in_float32(self, dtype: torch.dtype) -> None:
        model = nn.Linear(1, 1, bias=False).to(dtype)
        engine = engine_for(model, SWA(start="0ba"))
        for value in (1.0, *[1.0078125] * 99):
            with torch.no_grad():
                model.weight.fill_(value)
            with engine.batch(images(2), targets(2)):
                engine.step(lambda: torch.zeros(()))
        average = engine.state_dict()["swa.weights.weight"]
        assert average.dtype == torch.float32
        assert average.item() == pytest.approx(1 + 0.99 * 0.0078125, abs=1e-6)


class TestStart:
    def test_three_quarters_of_the_run_by_default(self) -> None:
        (member,) = plan_for([SWA()], max_duration="200ba").members
        assert member.schedule.start == 150

    def test_needs_the_length_of_the_run(self) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([SWA()])
        (fault,) = caught.value.faults
        assert fault.code == "duration-unknown"
        assert "max_duration" in fault.fix
        assert plan_for([SWA(start="100ba")]).order == ("swa",)

    def test_before_it_the_models_own_weights_are_evaluated(self) -> None:
        model = Net()
        engine = engine_for(model, SWA(), max_duration="8ba")
        for _ in range(7):
            own = snapshot(model)
            with engine.evaluation():
                assert snapshot(model) == own
            train(engine, 1)
        train(engine, 1)
        own = snapshot(model)
        with engine.evaluation():
            assert snapshot(model) != own
        assert snapshot(model) == own


class TestEvaluation:
    def test_the_weights_come_back_whatever_happens(self) -> None:
        model = Net()
        engine = engine_for(model, SWA(start="0ba"))
        train(engine, 3)
        own, seen = snapshot(model), []

        def evaluate() -> None:
            with engine.evaluation():
                seen.append(snapshot(model))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluate()
        assert seen[0] != own
        assert snapshot(model) == own

    def test_batch_norms_statistics_can_be_measured_anew_on_the_average(self) -> None:
        model = Net().double()
        engine = engine_for(model, SWA(start="0ba"), lr=1.0)
        train(engine, 6)
        own, data = snapshot(model), [images(size, torch.float64) for size in (6, 6)]
        with engine.evaluation():
            estimated = model.norm.running_mean.clone()
            update_bn(data, model)
            features = [model.conv(x).mean((0, 2, 3)) for x in data]
            torch.testing.assert_close(model.norm.running_mean, (features[0] + features[1]) / 2)
            assert (model.norm.running_mean - estimated).abs().max() > 1e-3
        assert snapshot(model) == own


class TestComposed:
    def test_ema_is_the_other_owner_of_the_evaluation_weights(self) -> None:
        for listed in ([SWA(start="5ba"), EMA(end="5ba")], ["ema", {"name": "swa", "start": "5ba"}]):
            with pytest.raises(cp.CompositionError) as caught:
                plan_for(listed)
            (fault,) = caught.value.faults
            assert fault.code == "two-owners"
            assert set(fault.algorithms) == {"ema", "swa"}

    def test_a_run_goes_on_bit_for_bit(self) -> None:
        methods = [MixUp(), CutOut(p=0.5), SAM(), GradientClipping(threshold=0.1), SWA(start="1ba", every=2)]
        model = Net()
        engine = engine_for(model, *methods)
        train(engine, 4)
        assert engine.optimizer is not None
        saved = deepcopy((engine.state_dict(), model.state_dict(), engine.optimizer.state_dict()))
        other = Net()
        again = engine_for(other, *methods)
        assert again.optimizer is not None
        again.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
        again.optimizer.load_state_dict(saved[2])
        assert train(again, 4) == train(engine, 4)
        assert int(engine.state_dict()["swa.updates"]) == 4
        with engine.evaluation(), again.evaluation():
            assert snapshot(model) == snapshot(other)
        assert {name: bits(value) for name, value in engine.state_dict().items()} == {
            name: bits(value) for name, value in again.state_dict().items()
        }

    @pytest.mark.slow
    def test_it_trains_on_digits_with_the_trainers_length_of_the_run(self) -> None:
        config = {
            "task": "multiclass",
            "data": {"name": "digits", "batch_size": 128},
            "model": {"name": "mlp", "hidden": 64},
            "optimizer": {"name": "sgd", "lr": 0.2},
            "max_duration": "6ep",
            "algorithms": ["swa", "label_smoothing"],
        }
        trainer = cp.Trainer(config)
        assert trainer.plan.members[0].schedule.start == round(0.75 * 6 * 11)
        assert trainer.fit().metrics["evaluation_accuracy"] > 0.9
