"""Gradient clipping: its formulas on gradients set by hand, when it runs, and what it leaves alone."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, SWA, CutMix, CutOut, GradientClipping, LabelSmoothing
from tests.algorithms.batches import bits, images, plan_for, targets
from tests.algorithms.training import Net, engine_for, snapshot, tensors, train


def clipped(gradient: list[float], *algorithms: object) -> list[float]:
    """Return what the optimizer would use in place of a gradient over two parameters, the first of two values."""
    model = nn.ParameterList([torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine = cp.Engine(plan_for(algorithms, contract="always"), model=model, optimizer=optimizer)

    def closure() -> Tensor:
        model[0].grad = torch.tensor(gradient[:2], dtype=torch.float64)
        model[1].grad = torch.tensor(gradient[2:], dtype=torch.float64)
        return torch.zeros(())

    with engine.batch(images(2), targets(2)):
        engine.step(closure)
    return [-value for parameter in model for value in parameter.tolist()]


class TestFormulas:
    def test_the_norm_is_that_of_all_parameters_together(self) -> None:
        factor = 1.0 / (13.0 + 1e-6)
        wanted = [3.0 * factor, -4.0 * factor, 12.0 * factor]
        assert clipped([3.0, -4.0, 12.0], GradientClipping()) == pytest.approx(wanted, rel=1e-14)

    def test_a_gradient_within_the_norm_stays(self) -> None:
        assert clipped([3.0, -4.0, 12.0], GradientClipping(threshold=13.1)) == [3.0, -4.0, 12.0]
        assert clipped([0.0, 0.0, 0.0], GradientClipping()) == [0.0, 0.0, 0.0]

    def test_each_value_by_itself(self) -> None:
        assert clipped([3.0, -4.0, 0.25], GradientClipping(by="value", threshold=0.5)) == [0.5, -0.5, 0.25]
        assert clipped([3.0, -4.0, 12.0], GradientClipping(by="value", threshold=12.0)) == [3.0, -4.0, 12.0]

    def test_a_gradient_that_is_not_finite_is_not_hidden(self) -> None:
        assert any(math.isnan(value) for value in clipped([math.inf, 1.0, 1.0], GradientClipping()))
        assert all(math.isnan(value) for value in clipped([math.nan, 1.0, 1.0], GradientClipping()))

    @pytest.mark.kind("30")
    @pytest.mark.parametrize("by", ["norm", "value"])
    @pytest.mark.parametrize("threshold", [2.0, 50.0])
    def test_sparse_gradients_are_bounded_with_the_dense_ones(self, by: str, threshold: float) -> None:
        """Of a sparse gradient an index may stand twice: its values are added before they are bounded."""
        model = nn.ParameterList([torch.zeros(3, 2), torch.zeros(2), torch.zeros(4, 2), torch.zeros(1)]).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        engine = cp.Engine(plan_for([GradientClipping(by=by, threshold=threshold)]), model=model, optimizer=optimizer)
        rows = torch.tensor([[3.0, -6.0], [1.0, 0.5], [4.0, -2.0]], dtype=torch.float64)

        def closure() -> Tensor:
            model[0].grad = torch.sparse_coo_tensor(torch.tensor([[2, 0, 2]]), rows, (3, 2), check_invariants=True)
            model[1].grad = torch.tensor([5.0, -1.0], dtype=torch.float64)
            model[2].grad = torch.sparse_coo_tensor(torch.tensor([[1]]), -rows[:1], (4, 2), check_invariants=True)
            return torch.zeros(())  # and the last has none

        with engine.batch(images(2), targets(2)):
            engine.step(closure)
        values = [1.0, 0.5, 7.0, -8.0, 5.0, -1.0, -3.0, 6.0]
        factor = min(1.0, threshold / (math.sqrt(sum(value**2 for value in values)) + 1e-6))
        a, b, c, d, e, f, g, h = (
            value * factor if by == "norm" else max(-threshold, min(threshold, value)) for value in values
        )
        wanted = [[[a, b], [0, 0], [c, d]], [e, f], [[0, 0], [g, h], [0, 0], [0, 0]], [0]]
        for parameter, numbers in zip(model, wanted, strict=True):
            torch.testing.assert_close(
                -parameter.detach(), torch.tensor(numbers, dtype=torch.float64), rtol=1e-14, atol=0
            )

    def test_two_of_them_as_listed(self) -> None:
        values, norm = GradientClipping(id="values", by="value", threshold=3.0), GradientClipping(threshold=0.5)
        factor = 0.5 / (math.sqrt(27) + 1e-6)
        assert clipped([3.0, -4.0, 12.0], values, norm) == pytest.approx(
            [3 * factor, -3 * factor, 3 * factor], rel=1e-14
        )
        factor = 0.5 / (13.0 + 1e-6)
        assert clipped([3.0, -4.0, 12.0], norm, values) == pytest.approx(
            [3 * factor, -4 * factor, 12 * factor], rel=1e-14
        )
        assert [pair.outcome for pair in plan_for([norm, values]).pairs] == ["as listed"]

    def test_it_runs_before_those_who_ask_to_come_later(self) -> None:
        class Read(cp.Algorithm[None], name="read"):
            @cp.before(cp.Event.UPDATE, reads="gradients")
            def look(self, state: object, scope: cp.Scope) -> None:
                seen.append(max(float(p.grad.abs().max()) for p in scope.model.parameters() if p.grad is not None))

        seen: list[float] = []
        clipping = GradientClipping(by="value", threshold=0.5)
        clipped([3.0, -4.0, 12.0], Read(after="gradient_clipping"), clipping)
        clipped([3.0, -4.0, 12.0], Read(before="gradient_clipping"), clipping)
        assert seen == [0.5, 12.0]


class TestInTraining:
    @pytest.mark.parametrize("parts", [2, 5])
    @pytest.mark.parametrize("by", ["norm", "value"])
    def test_it_clips_the_gradient_of_the_whole_batch(self, by: str, parts: int) -> None:
        ended = []
        for split in (1, parts):
            model = Net(norm=False).double()
            train(engine_for(model, GradientClipping(by=by, threshold=0.01), microbatches=split), 5, parts=split)
            ended.append(tensors(model))
        for name, value in ended[0].items():
            torch.testing.assert_close(value, ended[1][name], rtol=0, atol=1e-12, msg=name)

    def test_gradients_that_no_step_uses_do_not_count(self) -> None:
        """A body that is not trained keeps gathering gradients, which must not shrink the head's."""
        ended = []
        for frozen in (False, True):
            model = Net()
            for part in (model.conv, model.norm):
                part.requires_grad_(not frozen)
            optimizer = torch.optim.SGD(model.head.parameters(), lr=0.5)
            engine = cp.Engine(plan_for([GradientClipping(threshold=0.1)]), model=model, optimizer=optimizer)
            train(engine, 6)
            ended.append(model.head.weight.detach())
        assert torch.equal(*ended)

    def test_a_run_goes_on_bit_for_bit(self) -> None:
        methods = [CutMix(), LabelSmoothing(), CutOut(), GradientClipping(threshold=0.1, every=2), EMA()]
        model = Net()
        engine = engine_for(model, *methods)
        train(engine, 3)
        assert engine.optimizer is not None
        saved = deepcopy((engine.state_dict(), model.state_dict(), engine.optimizer.state_dict()))
        other = Net()
        again = engine_for(other, *methods)
        assert again.optimizer is not None
        again.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
        again.optimizer.load_state_dict(saved[2])
        assert train(again, 3) == train(engine, 3)
        assert snapshot(model) == snapshot(other)
        assert {name: bits(value) for name, value in engine.state_dict().items()} == {
            name: bits(value) for name, value in again.state_dict().items()
        }

    @pytest.mark.slow
    def test_it_trains_on_digits(self) -> None:
        config = {
            "task": "multiclass",
            "data": {"name": "digits", "batch_size": 128},
            "model": {"name": "mlp", "hidden": 64},
            "optimizer": {"name": "sgd", "lr": 0.5},
            "max_duration": "6ep",
            "accumulate": 2,
            "algorithms": ["gradient_clipping", "cutmix", "swa"],
        }
        assert cp.Trainer(config).fit().metrics["evaluation_accuracy"] > 0.9


class TestOrder:
    def test_the_list_does_not_matter(self) -> None:
        methods = [GradientClipping(), SWA(start="1ba"), LabelSmoothing()]
        assert plan_for(methods).fingerprint == plan_for(methods[::-1]).fingerprint

    def test_not_one_of_several(self) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([{"name": "one_of", "algorithms": ["gradient_clipping", "mixup"]}])
        assert [fault.code for fault in caught.value.faults] == ["branch-hook"]

    def test_settings(self) -> None:
        for settings in ({"threshold": 0.0}, {"threshold": -1.0}, {"threshold": math.inf}, {"by": "mean"}):
            with pytest.raises(ValidationError):
                GradientClipping(**settings)
        assert (GradientClipping().by, GradientClipping().threshold) == ("norm", 1.0)
