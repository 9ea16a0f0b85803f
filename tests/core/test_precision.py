"""Half precision is the model's affair: targets, class ids and losses stay exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.losses import resolve_loss

HALVES = [torch.bfloat16, torch.float16]
MANY = 5003


class Rotate(cp.Algorithm[None], name="rotate"):
    """A step whose product of matrices autocast would compute in half precision."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.REDISTRIBUTE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        angle = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
        return batch.with_inputs(batch.inputs @ angle)


def _plan(algorithms: list[Any], classes: int = 10, **facts: Any) -> cp.Plan:
    loss = nn.CrossEntropyLoss()
    return cp.compose(algorithms, loss=loss, task="multiclass", num_classes=classes, seed=3, **facts)


@pytest.mark.parametrize(
    ("algorithms", "inputs"),
    [
        ([Rotate(), "mixup"], "features"),
        (["trivial_augment", "label_smoothing", "cutout", "mixup"], "unit"),
        ([{"name": "normalize", "mean": [0.5], "std": [0.25]}, "cutmix"], "bytes"),
    ],
    ids=["a product", "images", "bytes"],
)
def test_autocast_changes_nothing(algorithms: list[Any], inputs: str) -> None:
    plan = _plan(algorithms, inputs=inputs)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 2, generator=generator) if inputs == "features" else torch.rand(8, 1, 8, 8, generator=generator)
    x = (x * 255).byte() if inputs == "bytes" else x
    for step in range(4):
        plain = plan(x, torch.arange(8), step=step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = plan(x, torch.arange(8), step=step)
            prepared = plan.prepare(x, torch.arange(8))
        for one, other in zip((*plain, *plan.prepare(x, torch.arange(8))), (*within, *prepared), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_a_model_that_a_method_runs_is_autocast() -> None:
    """As it is in training."""
    seen = []

    class Model(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            outputs = super().forward(input)
            seen.append(outputs.dtype)
            return outputs

    model = Model(4, 10)
    plan = _plan(["selective_backprop"], inputs="features")
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16), engine.batch(torch.rand(8, 4), torch.arange(8)):
        pass
    with engine.batch(torch.rand(8, 4), torch.arange(8)):
        pass
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("algorithms", [[], ["mixup"], ["label_smoothing"], ["selective_backprop"]], ids=str)
def test_class_ids_are_never_rounded(algorithms: list[str], dtype: torch.dtype) -> None:
    """bfloat16 holds whole numbers up to 256 alone, and float16 up to 2048."""
    targets = torch.tensor([0, 257, 2049, 4095, 4097, MANY - 1])
    assert not torch.equal(targets.to(dtype).long(), targets)
    model = nn.Linear(4, MANY).to(dtype)
    plan = _plan(algorithms, MANY, inputs="features")
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters()))
    inputs = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    with engine.batch(inputs, targets) as batch:
        draws = engine.draws()
        assert batch.inputs.dtype == dtype
    if algorithms == ["selective_backprop"]:
        assert set(batch.targets.tolist()) < set(targets.tolist())
    elif not algorithms:
        assert torch.equal(batch.targets, targets)
    else:
        assert batch.targets.dtype == torch.float32
        columns = targets if algorithms == ["label_smoothing"] else torch.stack([targets, targets[draws["mixup"].perm]])
        expected = torch.zeros(6, MANY).scatter(1, columns.reshape(-1, 6).T, 1.0)
        assert torch.equal(batch.targets > 1e-3, expected > 0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (nn.CrossEntropyLoss(), "index"),
        (nn.CrossEntropyLoss(weight=torch.rand(7)), "index"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "dense"),
        (nn.NLLLoss(), "index"),
        (nn.NLLLoss(), "dense"),
        (nn.BCEWithLogitsLoss(), "multi_hot"),
        (nn.MSELoss(), "continuous"),
        (nn.L1Loss(), "continuous"),
        (nn.KLDivLoss(reduction="batchmean"), "dense"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("autocast", [False, True])
def test_losses_of_half_outputs_are_float32(loss: nn.Module, kind: str, dtype: torch.dtype, autocast: bool) -> None:
    spec = resolve_loss(loss)
    assert spec is not None
    generator = torch.Generator().manual_seed(2)
    outputs = torch.randn(5, 7, generator=generator).log_softmax(1).to(dtype)
    targets = torch.randint(7, (5,), generator=generator)
    if kind != "index":
        targets = torch.rand(5, 7, generator=generator).softmax(1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = spec.function(outputs, targets)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(spec.function(outputs.float(), targets).item(), rel=1e-6)
