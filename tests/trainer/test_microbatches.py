"""A batch run in parts gives the gradient of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core.run.training.shares import as_mean
from counterpoint.trainer.loop.microbatches import passes_over

CLASSES = 5
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0], dtype=torch.float64)


def _model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def _batch(count: int = 13, ignored: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    targets[:ignored] = -100
    return inputs, targets


def _run(plan: cp.Plan, inputs: Tensor, targets: Tensor, parts: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """The loss, the gradients and the outputs of a batch run in parts."""
    model = _model()
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    with engine.batch(inputs, targets) as batch:
        passes = passes_over(engine, model, Accelerator(cpu=True), batch, parts)
        loss = engine.step(passes)
        return loss, [parameter.grad for parameter in model.parameters()], passes.outputs


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 3, 4, 13, 20])
@pytest.mark.parametrize("algorithms", [[], ["mixup"], ["mixup", "label_smoothing"]], ids=str)
@pytest.mark.parametrize(
    ("loss", "ignored"),
    [
        (nn.CrossEntropyLoss(), 0),
        (nn.CrossEntropyLoss(reduction="sum"), 0),
        (nn.CrossEntropyLoss(weight=WEIGHT), 0),
        (nn.CrossEntropyLoss(), 5),
        (nn.CrossEntropyLoss(weight=WEIGHT), 8),
    ],
    ids=["mean", "sum", "weights", "ignored", "weights and ignored"],
)
def test_parts_add_up(loss: nn.Module, ignored: int, algorithms: list[str], parts: int) -> None:
    plan = cp.compose(algorithms, loss=loss, task="multiclass", num_classes=CLASSES, inputs="features", seed=2)
    inputs, targets = _batch(ignored=ignored)
    whole_loss, whole, whole_outputs = _run(plan, inputs, targets, 1)
    part_loss, split, outputs = _run(plan, inputs, targets, parts)
    assert part_loss.item() == pytest.approx(whole_loss.item(), rel=1e-6)
    assert torch.allclose(outputs, whole_outputs, rtol=1e-12)
    for one, other in zip(whole, split, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)


def test_one_part_is_the_plain_loop_bit_for_bit() -> None:
    plan = cp.compose([], loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=CLASSES, inputs="features")
    inputs, targets = _batch()
    loss, gradients, _ = _run(plan, inputs, targets, 1)
    model = _model()
    expected = nn.functional.cross_entropy(model(inputs), targets)
    expected.backward()
    assert loss == expected
    for one, parameter in zip(gradients, model.parameters(), strict=True):
        assert torch.equal(one, parameter.grad)


def test_a_batch_in_which_nothing_counts_is_nan_in_parts_too() -> None:
    plan = cp.compose([], loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=CLASSES, inputs="features")
    inputs, targets = _batch(ignored=13)
    assert _run(plan, inputs, targets, 1)[0].isnan()
    assert _run(plan, inputs, targets, 3)[0].isnan()


def test_outputs_are_those_of_the_first_run() -> None:
    plan = cp.compose([], loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=CLASSES, inputs="features")
    inputs, targets = _batch()
    model = _model()
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    with engine.batch(inputs, targets) as batch:
        passes = passes_over(engine, model, Accelerator(cpu=True), batch, 2)
        first = passes()
        with torch.no_grad():
            model[0].weight.mul_(2)
        assert passes() != first
    with torch.no_grad():
        assert torch.allclose(passes.outputs, _model()(inputs))


def _mean_over_samples(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().sum(1).mean()


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize(
    ("task", "loss", "accepts", "targets"),
    [
        ("multilabel", nn.BCEWithLogitsLoss(pos_weight=WEIGHT), None, torch.rand),
        ("regression", nn.MSELoss(), None, torch.randn),
        ("regression", _mean_over_samples, {"continuous"}, torch.randn),
    ],
    ids=["multilabel", "regression", "a loss of one's own"],
)
def test_other_tasks_add_up(task: str, loss: Any, accepts: Any, targets: Any, parts: int) -> None:
    facts = {"num_classes": CLASSES} if task == "multilabel" else {}
    plan = cp.compose(["mixup"], loss=loss, loss_accepts=accepts, task=task, inputs="features", seed=2, **facts)
    wanted = targets(13, CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs, _ = _batch()
    whole_loss, whole, _ = _run(plan, inputs, wanted, 1)
    part_loss, split, _ = _run(plan, inputs, wanted, parts)
    assert part_loss.item() == pytest.approx(whole_loss.item(), rel=1e-6)
    for one, other in zip(whole, split, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("algorithms", [[], ["cutmix", "label_smoothing"]], ids=str)
def test_positions_add_up(algorithms: list[str], parts: int) -> None:
    """Segmentation, whose samples have different numbers of positions that count."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(7, 2, 4, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, CLASSES, (7, 4, 4), generator=generator)
    targets[torch.rand(7, 4, 4, generator=generator) < torch.linspace(0, 1, 7)[:, None, None]] = 255
    loss = nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=255)
    plan = cp.compose(algorithms, loss=loss, task="segmentation", num_classes=CLASSES, inputs="image", seed=2)
    weight = torch.randn(CLASSES, 2, 1, 1, generator=generator, dtype=torch.float64)

    def gradient(count: int) -> Tensor:
        model = nn.Conv2d(2, CLASSES, 1).double()
        with torch.no_grad():
            model.weight.copy_(weight)
            model.bias.zero_()
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
        with engine.batch(inputs, targets) as batch:
            engine.step(passes_over(engine, model, Accelerator(cpu=True), batch, count))
        assert model.weight.grad is not None
        return model.weight.grad

    assert torch.allclose(gradient(parts), gradient(1), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("reduction", "mean", "weight"), [("mean", 3.0, 4.0), ("sum", 0.75, 4.0)])
def test_a_sum_is_shown_as_a_mean(reduction: str, mean: float, weight: float) -> None:
    loss = nn.CrossEntropyLoss(reduction=reduction)
    plan = cp.compose([], loss=loss, task="multiclass", num_classes=CLASSES)
    found = as_mean(plan, torch.tensor(3.0), torch.zeros(4, dtype=torch.int64))
    assert (float(found[0]), float(found[1])) == (mean, weight)
