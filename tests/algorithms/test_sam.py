"""SAM: its steps against a loop written by hand, what the second pass leaves alone, and what is refused."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint.algorithms import EMA, SAM, SWA, CutOut, GradientClipping, LabelSmoothing, MixUp
from counterpoint.trainer import trainer as trainer_module
from tests.algorithms.batches import bits, images, plan_for, targets
from tests.algorithms.training import Net, closure_over, data, engine_for, snapshot, tensors, train


def gradient_at(
    model: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor, parts: int
) -> dict[str, Tensor]:
    """Return the gradient of a batch's loss at given weights; ``buffers`` are updated, the model is not."""
    held = {name: value.clone().requires_grad_() for name, value in weights.items()}
    whole = torch.zeros((), dtype=x.dtype)
    for inputs, wanted in zip(x.chunk(parts), y.chunk(parts), strict=True):
        outputs = functional_call(model, (held, buffers), (inputs,))
        whole = whole + nn.functional.cross_entropy(outputs, wanted, reduction="sum") / len(x)
    return dict(zip(held, torch.autograd.grad(whole, list(held.values())), strict=True))


def by_hand(
    model: nn.Module, steps: int, *, rho: float, adaptive: bool, clip: float, decay: float, parts: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Train by SAM, norm clipping, SGD with momentum 0.9 and EMA; return the values and their average."""
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    momentum = {name: torch.zeros_like(value) for name, value in weights.items()}
    average: dict[str, Tensor] = {}
    for step in range(steps):
        x, y = data(step, torch.float64)
        first = gradient_at(model, weights, buffers, x, y, parts)
        radius = {name: value.abs() if adaptive else torch.ones_like(value) for name, value in weights.items()}
        norm = math.sqrt(sum(float(((radius[name] * first[name]) ** 2).sum()) for name in weights))
        moved = {name: weights[name] + rho * radius[name] ** 2 * first[name] / norm for name in weights}
        second = gradient_at(model, moved, {name: value.clone() for name, value in buffers.items()}, x, y, parts)
        norm = math.sqrt(sum(float((part**2).sum()) for part in second.values()))
        factor = min(1.0, clip / (norm + 1e-6))
        assert factor < 1
        for name in weights:
            momentum[name] = 0.9 * momentum[name] + factor * second[name]
            weights[name] = weights[name] - 0.1 * momentum[name]
        for name, value in {**weights, **buffers}.items():
            kept = decay if step else 0.0
            old = average.get(name, torch.zeros_like(value))
            average[name] = kept * old + (1 - kept) * value if value.is_floating_point() else value.clone()
    return {**weights, **buffers}, average


class TestAgainstALoopByHand:
    @pytest.mark.slow
    @pytest.mark.parametrize("parts", [1, 2, 5])
    @pytest.mark.parametrize("adaptive", [False, True])
    def test_with_accumulation_clipping_and_ema(self, adaptive: bool, parts: int) -> None:
        wanted, average = by_hand(Net().double(), 6, rho=0.3, adaptive=adaptive, clip=0.05, decay=0.6, parts=parts)
        methods = [SAM(rho=0.3, adaptive=adaptive), GradientClipping(threshold=0.05), EMA(decay=0.6, warmup=False)]
        for listed in (methods, methods[::-1]):
            model = Net().double()
            engine = engine_for(model, *listed, microbatches=parts)
            train(engine, 6, parts=parts)
            for name, value in tensors(model).items():
                torch.testing.assert_close(value.detach(), wanted[name], rtol=0, atol=1e-12, msg=name)
            with engine.evaluation():
                for name, value in tensors(model).items():
                    torch.testing.assert_close(value.detach(), average[name], rtol=0, atol=1e-12, msg=name)

    @pytest.mark.parametrize("parts", [2, 5])
    def test_microbatches_give_the_step_of_the_whole_batch(self, parts: int) -> None:
        weights = []
        for split in (1, parts):
            model = Net(norm=False).double()
            train(engine_for(model, SAM(rho=0.3), GradientClipping(threshold=0.05), "ema"), 6, parts=split)
            weights.append(tensors(model))
        for name, value in weights[0].items():
            torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-12, msg=name)

    def test_it_differs_from_a_plain_step_and_rho_0_does_not(self) -> None:
        ended = []
        for methods in ((), (SAM(rho=0.0),), (SAM(rho=0.3),)):
            model = Net().double()
            train(engine_for(model, *methods), 3)
            ended.append(model.conv.weight.detach())
        assert torch.equal(ended[0], ended[1])
        assert (ended[0] - ended[2]).abs().max() > 1e-3


class TestPerturbation:
    def test_its_length_is_rho_and_it_points_along_the_gradient(self) -> None:
        gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
        moved = CF.sam_perturbation([torch.ones(2), torch.ones(1, 1)], gradients, 0.5)
        torch.testing.assert_close(moved, [torch.tensor([0.3, 0.0]), torch.tensor([[0.4]])])

    def test_adaptive_follows_the_scale_of_weights(self) -> None:
        """Weights twice as large, and so gradients half as large, are moved by twice as much."""
        weights, gradients = [torch.tensor([1.0, -2.0, 0.0])], [torch.tensor([0.5, 1.0, 7.0])]
        moved = CF.sam_perturbation(weights, gradients, 0.3, adaptive=True)
        norm = math.sqrt((1.0 * 0.5) ** 2 + (2.0 * 1.0) ** 2)
        torch.testing.assert_close(moved, [torch.tensor([0.3 * 0.5 / norm, 0.3 * 4.0 / norm, 0.0])])
        scaled = CF.sam_perturbation([2 * weights[0]], [gradients[0] / 2], 0.3, adaptive=True)
        torch.testing.assert_close(scaled, [2 * moved[0]])

    @pytest.mark.parametrize("adaptive", [False, True])
    @pytest.mark.parametrize("size", [0.0, 1e-45, 1e-40, 1e-30, 1e-10])
    def test_next_to_no_gradient_is_no_division_by_zero(self, size: float, adaptive: bool) -> None:
        weights, gradients = [torch.tensor([1.0, 2.0])], [torch.tensor([size, 0.0])]
        (moved,) = CF.sam_perturbation(weights, gradients, 0.05, adaptive=adaptive)
        assert torch.isfinite(moved).all()
        assert moved.abs().max() <= 0.05 * 1.000001
        assert moved[1] == 0

    def test_no_parameters_at_all(self) -> None:
        assert CF.sam_perturbation([], [], 0.05) == []

    def test_a_step_with_zero_gradient_stays(self) -> None:
        model = nn.Linear(1, 1)
        engine = engine_for(model, SAM())
        before = snapshot(model)

        def closure() -> Tensor:
            loss = model(torch.zeros(1, 1)).sum() * 0
            loss.backward()
            return loss.detach()

        with engine.batch(images(2), targets(2)):
            engine.step(closure)
        assert snapshot(model) == before


class TestTheSecondPass:
    def test_sees_the_same_batch_at_other_weights(self) -> None:
        model, seen = Net(), []  # type: Net, list[tuple[bytes, bytes]]
        model.register_forward_pre_hook(lambda module, given: seen.append((bits(given[0]), bits(model.head.weight))))
        train(engine_for(model, MixUp(alpha=1.0), CutOut(), SAM()), 2)
        (x0, w0), (x1, w1), (x2, w2), (x3, w3) = seen
        assert x0 == x1 != x2 == x3
        assert len({w0, w1, w2, w3}) == 4

    def test_fires_the_spans_again_with_the_same_draws(self) -> None:
        seen: list[Any] = []

        class Watch(cp.Algorithm[Tensor], name="watch"):
            def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
                return rng.uniform()

            @cp.before(cp.Event.FORWARD, reads="parameters")
            def look(self, state: object, scope: cp.Scope) -> None:
                seen.append(scope.draws)

        train(engine_for(Net(), SAM(), Watch()), 1)
        assert len(seen) == 2
        assert seen[0] is seen[1]

    def test_the_loss_is_that_of_the_first(self) -> None:
        plain, model = Net().double(), Net().double()
        assert train(engine_for(plain), 1) == train(engine_for(model, SAM(rho=1.0)), 1)

    def test_the_weights_come_back_bit_for_bit(self) -> None:
        """Adding and subtracting would leave rounding behind: it does so here in some of the weights."""
        model = nn.Linear(105, 64)
        engine = engine_for(model, SAM(rho=0.5), lr=0.0, num_classes=64)
        before, kept = snapshot(model), model.weight.detach().clone()
        with engine.batch(images(6), targets(6)) as batch:
            engine.step(closure_over(engine, [(batch.inputs.flatten(1), batch.targets)]))
        assert snapshot(model) == before
        noise = 0.01 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
        assert not torch.equal(kept + noise - noise, kept)

    @pytest.mark.parametrize("momentum", [0.1, None, 1.0])
    @pytest.mark.parametrize("parts", [1, 2])
    def test_leaves_batch_norm_as_the_first_left_it(self, momentum: float | None, parts: int) -> None:
        model, plain = Net(momentum=momentum), Net(momentum=momentum)
        train(engine_for(model, SAM(rho=5.0), lr=0.0), 4, parts=parts)
        train(engine_for(plain, lr=0.0), 4, parts=parts)
        assert int(model.norm.num_batches_tracked) == 4 * parts
        assert snapshot(model) == snapshot(plain)

    def test_leaves_buffers_that_a_module_replaces(self) -> None:
        class Counts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(105, 4)
                self.register_buffer("seen", torch.zeros(()))

            def forward(self, x: Tensor) -> Tensor:
                self.seen = self.seen + 1
                out: Tensor = self.linear(x.flatten(1))
                return out

        model = Counts()
        train(engine_for(model, SAM()), 3)
        assert model.seen.item() == 3

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_puts_everything_back_when_it_fails(self, error: type[BaseException]) -> None:
        model, runs = Net(), []  # type: Net, list[dict[str, bytes]]
        engine = engine_for(model, SAM())
        weights = {name: bits(value) for name, value in model.named_parameters()}

        def closure() -> Tensor:
            loss = engine.plan.loss(model(images(4)), targets(4))
            loss.backward()
            if runs:
                raise error
            runs.append(snapshot(model))
            return loss.detach()

        with pytest.raises(error), engine.batch(images(4), targets(4)):
            engine.step(closure)
        assert snapshot(model) == runs[0]
        assert {name: bits(value) for name, value in model.named_parameters()} == weights

    def test_moves_only_what_the_optimizer_holds(self) -> None:
        model, seen = Net(), []  # type: Net, list[bytes]
        model.register_forward_pre_hook(lambda module, given: seen.append(bits(model.conv.weight)))
        engine = cp.Engine(
            plan_for([SAM(rho=0.3)]), model=model, optimizer=torch.optim.SGD(model.head.parameters(), lr=0.1)
        )
        reference = Net()
        reference.conv.requires_grad_(False)
        reference.norm.requires_grad_(False)
        train(engine, 3)
        held = torch.optim.SGD(reference.head.parameters(), lr=0.1)
        train(cp.Engine(plan_for([SAM(rho=0.3)]), model=reference, optimizer=held), 3)
        assert len(set(seen)) == 1
        assert snapshot(model) == snapshot(reference)


class TestComposed:
    def test_a_run_goes_on_bit_for_bit(self) -> None:
        methods = [MixUp(alpha=1.0), LabelSmoothing(), CutOut(p=0.5), SAM(p=0.6), GradientClipping(), EMA()]
        model = Net()
        engine = engine_for(model, *methods)
        train(engine, 3)
        saved = {name: value.clone() for name, value in engine.state_dict().items()}
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        assert engine.optimizer is not None
        momentum = deepcopy(engine.optimizer.state_dict())
        other = Net()
        again = engine_for(other, *methods)
        other.load_state_dict(weights)
        again.load_state_dict(saved)
        assert again.optimizer is not None
        again.optimizer.load_state_dict(momentum)
        other_losses, losses = train(again, 4), train(engine, 4)
        assert losses == other_losses
        assert snapshot(model) == snapshot(other)
        assert {name: bits(value) for name, value in engine.state_dict().items()} == {
            name: bits(value) for name, value in again.state_dict().items()
        }

    def test_the_list_does_not_matter(self) -> None:
        methods = [SAM(), GradientClipping(), SWA(start="1ba"), MixUp()]
        first, second = (plan_for(listed) for listed in (methods, methods[::-1]))
        assert first.fingerprint == second.fingerprint

    def test_two_owners_of_the_step(self) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([SAM(), SAM(id="wider", rho=0.5)])
        assert [fault.code for fault in caught.value.faults] == ["two-owners"]
        assert caught.value.faults[0].algorithms == ("sam", "wider")

    def test_not_one_of_several(self) -> None:
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([{"name": "one_of", "algorithms": ["sam", "mixup"]}])
        assert [fault.code for fault in caught.value.faults] == ["branch-hook"]

    @pytest.mark.slow
    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_it_trains_on_digits(self, accumulate: int) -> None:
        config = {
            "task": "multiclass",
            "data": {"name": "digits", "batch_size": 128},
            "model": {"name": "mlp", "hidden": 64},
            "optimizer": {"name": "sgd", "lr": 0.2},
            "max_duration": "6ep",
            "accumulate": accumulate,
            "algorithms": ["sam", {"name": "gradient_clipping", "threshold": 5.0}, "mixup", "ema"],
        }
        assert cp.Trainer(config).fit().metrics["evaluation_accuracy"] > 0.9


class TestRefused:
    def test_settings(self) -> None:
        for settings in ({"rho": -0.1}, {"rho": math.inf}, {"adaptive": "yes"}, {"radius": 0.1}):
            with pytest.raises(ValidationError):
                SAM(**settings)
        assert (SAM().rho, SAM().adaptive) == (0.05, False)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["sam", "gradient_clipping"])
    def test_fp16_in_the_trainer(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # A CPU refuses fp16 by itself; what follows there is what a GPU would be told.
        monkeypatch.setattr(trainer_module, "make_accelerator", lambda precision: Accelerator(cpu=True))
        config = {"task": "multiclass", "data": "digits", "model": "mlp", "max_duration": "1ba", "precision": "fp16"}
        cp.Trainer({**config, "algorithms": ["mixup", "ema"]})
        with pytest.raises(cp.ConfigError, match=f"'fp16' scales the gradients.*, which {name} would use.*bf16"):
            cp.Trainer({**config, "algorithms": [name]})

    def test_float16_weights(self) -> None:
        model = nn.Linear(2, 1).half()
        engine = engine_for(model, SAM())

        def closure() -> Tensor:
            loss = model(torch.ones(1, 2, dtype=torch.float16)).sum()
            loss.backward()
            return loss.detach()

        before = snapshot(model)
        with pytest.raises(cp.RunError, match="sam cannot train float16 weights"), engine.batch(images(2), targets(2)):
            engine.step(closure)
        assert snapshot(model) == before
