"""Selective backprop against the definition: which samples train, from which losses, and what everyone else sees."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, CutOut, LabelSmoothing, MixUp, SelectiveBackprop
from counterpoint.functional import select_by_loss
from counterpoint.trainer.trainer import Trainer

CLASSES = 3


def cross_entropy_of_each(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


EACH = cp.LossSpec(
    "cross_entropy",
    nn.functional.cross_entropy,
    frozenset({cp.INDEX, cp.DENSE}),
    each=cross_entropy_of_each,
)


def composed(*algorithms: object, **settings: Any) -> cp.Plan:
    stated = {"loss": EACH, "task": "multiclass", "num_classes": CLASSES, "seed": 17, "contract": "always"}
    return cp.compose(list(algorithms), **{**stated, **settings})


class Network(nn.Module):
    """A classifier with dropout and batch norm, which counts how often it ran, and how."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, CLASSES)
            ).double()
        self.runs: list[tuple[int, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append((len(x), self.training, torch.is_grad_enabled()))
        out: Tensor = self.layers(x)
        return out


def engine_of(plan: cp.Plan, model: nn.Module | None = None) -> cp.Engine:
    model = Network() if model is None else model
    return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def data(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 1, 2, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (size,), generator=generator)


def train(engine: cp.Engine, steps: range) -> None:
    for step in steps:
        with torch.random.fork_rng():
            torch.manual_seed(step)
            with engine.batch(*data(step)) as batch:

                def closure(batch: cp.Batch = batch) -> Tensor:
                    loss = engine.plan.loss(engine.model(batch.inputs), batch.targets)
                    loss.backward()
                    return loss.detach()

                engine.step(closure)


def naive_selection(losses: list[float], keys: list[float], keep: int, beta: float) -> list[int]:
    """Select as the definition says: the highest ``u ** (1 / weight)``."""
    ranks = sorted(range(len(losses)), key=lambda i: losses[i])
    weights = {i: ((rank + 0.5) / len(losses)) ** beta for rank, i in enumerate(ranks)}
    return sorted(sorted(weights, key=lambda i: keys[i] ** (1 / weights[i]))[-keep:])


class TestTheSelection:
    def test_against_the_definition(self) -> None:
        for number in range(60):
            rng = cp.Rng(number, "test")
            size = 1 + number % 9
            losses, keys = rng.normal(size=(size,)), rng.uniform(size=(size,))
            keep, beta = 1 + number % size, [0.0, 0.5, 1.0, 2.0][number % 4]
            wanted = naive_selection(losses.tolist(), keys.tolist(), keep, beta)
            assert select_by_loss(losses, keys, keep, beta).tolist() == wanted

    def test_an_infinite_beta_takes_the_highest_losses(self) -> None:
        losses = torch.tensor([0.1, 5.0, 3.0, 5.0, 0.2])
        for keep in range(1, 6):
            wanted = sorted(sorted(range(5), key=lambda i: float(losses[i]))[-keep:])
            assert select_by_loss(losses, torch.rand(5), keep, math.inf).tolist() == wanted

    @pytest.mark.slow
    @pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
    def test_chances_are_those_of_sampling_without_replacement(self, beta: float) -> None:
        size, keep, trials = 4, 2, 4000
        weights = [((rank + 0.5) / size) ** beta for rank in range(size)]
        chance = dict.fromkeys(range(size), 0.0)
        for first, second in permutations(range(size), keep):
            p = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
            chance[first] += p
            chance[second] += p
        keys = cp.Rng(17, "trials").uniform(size=(trials, size))
        counts = np.zeros(size)
        for row in keys:
            counts[select_by_loss(torch.arange(size).float(), row, keep, beta)] += 1
        for sample, p in chance.items():
            assert abs(counts[sample] / trials - p) < 4 * math.sqrt(p * (1 - p) / trials)

    def test_nan_counts_as_the_highest_loss(self) -> None:
        losses = torch.tensor([1.0, math.nan, math.inf])
        assert select_by_loss(losses, torch.rand(3), 1, math.inf).tolist() == [1]

    def test_keys_of_0_and_tiny_weights(self) -> None:
        losses = torch.arange(1000.0)
        keys = torch.full((1000,), 0.5)
        keys[7] = 0
        assert select_by_loss(losses, keys, 999, 200.0).tolist() == [i for i in range(1000) if i != 7]


def losses_in_loops(model: Network, x: Tensor, y: Tensor) -> list[float]:
    linear, norm, last = model.layers[1], model.layers[2], model.layers[4]
    losses = []
    for image, label in zip(x.flatten(1).numpy(), y.tolist(), strict=True):
        h = linear.weight.detach().numpy() @ image + linear.bias.detach().numpy()
        spread = np.sqrt(norm.running_var.numpy() + norm.eps)
        h = (h - norm.running_mean.numpy()) / spread * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        logits = last.weight.detach().numpy() @ h + last.bias.detach().numpy()
        losses.append(float(np.log(np.exp(logits).sum()) - logits[label]))
    return losses


@pytest.mark.parametrize(
    ("algorithm", "kept"),
    [
        (SelectiveBackprop(), 4),
        (SelectiveBackprop(keep=0.01), 1),
        (SelectiveBackprop(keep=0.7), 6),
        (SelectiveBackprop(keep=0.6, beta=3.0), 5),
        (SelectiveBackprop(keep=0.6, selection="top"), 5),
        (SelectiveBackprop(keep=0.3, beta=0.0), 2),
        (SelectiveBackprop(keep=0.25, selection="top"), 2),
    ],
)
def test_which_samples_train_against_loops(algorithm: SelectiveBackprop, kept: int) -> None:
    model = Network()
    train(engine_of(composed(), model), range(3))  # so that batch norm has statistics of its own
    engine = engine_of(composed(algorithm), model)
    for step in range(3, 6):
        x, y = data(step)
        losses = losses_in_loops(engine.model, x, y)
        with engine.batch(x, y) as batch:
            keys = engine.draws()["selective_backprop"].tolist()
            wanted = naive_selection(
                losses, keys, kept, algorithm.sharpness if math.isfinite(algorithm.sharpness) else 0
            )
            if algorithm.selection == "top":
                wanted = sorted(sorted(range(8), key=lambda i: losses[i])[-kept:])
            assert torch.equal(batch.inputs, x[wanted])
            assert torch.equal(batch.targets, y[wanted])


def test_the_extra_pass_is_an_evaluation_that_leaves_no_trace() -> None:
    engine = engine_of(composed(SelectiveBackprop()))
    model = engine.model
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    with engine.batch(*data(0)):
        assert model.runs == [(8, False, False)]
        assert all(module.training for module in model.modules())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loop_says_how_its_model_gives_outputs() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, *, images: Tensor) -> dict[str, Tensor]:
            return {"logits": self.network(images)}

    plan, wrapped, (x, y) = composed(SelectiveBackprop()), Wrapped(), data(0)
    engine = cp.Engine(plan, model=wrapped, predict=lambda inputs: wrapped(images=inputs)["logits"])
    with engine.batch(x, y) as batch, engine_of(plan, wrapped.network).batch(x, y) as wanted:
        assert torch.equal(batch.targets, wanted.targets)
        assert torch.equal(batch.inputs, wanted.inputs)


def test_keeping_all_costs_no_extra_pass() -> None:
    engine = engine_of(composed(SelectiveBackprop(keep=1.0)))
    x, y = data(0)
    with engine.batch(x, y) as batch:
        assert batch.inputs is x
    assert engine.model.runs == []


def test_on_batches_that_it_skips_all_train() -> None:
    engine = engine_of(composed(SelectiveBackprop(every=2)))
    sizes = []
    for step in range(4):
        with engine.batch(*data(step)) as batch:
            sizes.append(len(batch.inputs))
    assert sizes == [4, 8, 4, 8]


def test_others_see_the_kept_samples_alone_and_it_sees_unedited_ones() -> None:
    listed = [MixUp(alpha=1.0), CutOut(length=1.0), LabelSmoothing(), SelectiveBackprop()]
    plans = [composed(*listed), composed(*reversed(listed))]
    assert {plan.fingerprint for plan in plans} == {plans[0].fingerprint}
    engine = engine_of(plans[0])
    train(engine, range(2))
    x, y = data(2)
    losses = losses_in_loops(engine.model, x, y)
    with engine.batch(x, y) as batch:
        draws = engine.draws()
        assert len(batch.inputs) == len(draws["mixup"].perm) == len(draws["cutout"]) == 4
        kept = naive_selection(losses, draws["selective_backprop"].tolist(), 4, 1.0)
        lam, partners = float(draws["mixup"].lam), draws["mixup"].perm.tolist()
        smooth = 0.9 * np.eye(CLASSES)[y[kept].numpy()] + 0.1 / CLASSES
        wanted = [lam * smooth[i] + (1 - lam) * smooth[j] for i, j in enumerate(partners)]
        np.testing.assert_allclose(batch.targets.numpy(), np.array(wanted), rtol=0, atol=1e-6)


def test_a_seen_batch_is_one_that_the_model_can_take() -> None:
    class Scale(cp.Algorithm[None], name="scale_bytes"):
        @cp.transform(inputs=cp.Edit(frozenset({cp.BYTES}), gives=cp.NORMALIZED, form=cp.Form.AFFINE))
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_inputs(batch.inputs.double() / 127.5 - 1)

    engine = engine_of(composed(CutOut(), Scale(), SelectiveBackprop(selection="top"), inputs="bytes"))
    train(engine, range(0))
    x = torch.randint(256, (8, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = data(0)[1]
    losses = losses_in_loops(engine.model, x.double() / 127.5 - 1, y)
    with engine.batch(x, y) as batch:
        assert batch.targets.tolist() == y[sorted(sorted(range(8), key=lambda i: losses[i])[-4:])].tolist()


def test_it_resumes_bit_for_bit_beside_others() -> None:
    plan = composed(SelectiveBackprop(p=0.7), MixUp(), EMA(half_life=2))
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


def refused(*algorithms: object, **settings: Any) -> list[str]:
    with pytest.raises(cp.CompositionError) as caught:
        composed(*algorithms, **settings)
    return [fault.code for fault in caught.value.faults]


class TestWhatIsRefused:
    def test_a_loss_that_gives_one_number(self) -> None:
        def own(outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.logsumexp(1).mean() - outputs.gather(1, targets[:, None]).mean()

        assert refused(SelectiveBackprop(), loss=own, loss_accepts={"index"}) == ["no-sample-losses"]
        assert refused(SelectiveBackprop(), loss=None) == ["no-sample-losses"]

    def test_two_of_it(self) -> None:
        assert "two-owners" in refused(SelectiveBackprop(id="one"), SelectiveBackprop(id="two"))

    def test_settings_out_of_range(self) -> None:
        for settings in ({"keep": 0.0}, {"keep": 1.5}, {"beta": -1.0}, {"selection": "bottom"}):
            with pytest.raises(ValueError, match=next(iter(settings))):
                SelectiveBackprop(**settings)

    def test_a_call_without_an_engine(self) -> None:
        with pytest.raises(cp.EngineRequiredError, match="selective_backprop"):
            composed(SelectiveBackprop())(*data(0), step=0)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_trains_on_digits(accumulate: int) -> None:
    model = {"name": "mlp", "hidden": 16}
    config = {"task": "multiclass", "data": "digits", "model": model, "max_duration": "3ba", "accumulate": accumulate}
    assert Trainer({**config, "algorithms": ["selective_backprop", "mixup"]}).fit().steps == 3
