"""The shipped trainer takes the same steps in one, two, three or four microbatches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import counterpoint as cp
from counterpoint.trainer import DataSpec
from tests.trainer.alike import CLASSES, SHAPE, WEIGHT, small_model, uneven
from tests.trainer.support import blobs, config, lines, weights

METHODS = ["mixup", "label_smoothing", "sam", "gradient_clipping", "ema", {"name": "selective_backprop", "p": 0.5}]


def _train(folder: Path, parts: int, *, model: nn.Module | None = None, **keys: Any) -> cp.Trainer:
    """Train on batches of 22 examples, which three and four parts split unevenly."""
    train, evaluation = uneven()
    loss = {"name": "cross_entropy", "weight": WEIGHT}
    settings = {"data": {"name": "digits", "batch_size": 22}, "max_duration": "6ba", "loss": loss}
    trainer = cp.Trainer(
        config(folder, **{**settings, "algorithms": METHODS, "accumulate": parts, **keys}),
        model=small_model() if model is None else model,
        train_data=train,
        eval_data=evaluation,
        spec=DataSpec("multiclass", "features", SHAPE, CLASSES),
    )
    trainer.fit()
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    _train(folder, 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_the_parameters_are_those_of_the_whole_batch(parts: int, whole: Path, tmp_path: Path) -> None:
    """With class weights, ignored positions, mixing, SAM and clipping, also where parts are uneven."""
    _train(tmp_path, parts)
    found = weights(tmp_path)
    for name, value in weights(whole).items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name
    for line, expected in zip(lines(tmp_path), lines(whole), strict=True):
        assert line == {key: pytest.approx(value, rel=1e-5) for key, value in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
def test_independent_labels(parts: int, tmp_path: Path) -> None:
    inputs, _ = blobs(96, CLASSES, SHAPE).tensors
    data = TensorDataset(inputs, (torch.rand(96, CLASSES, generator=torch.Generator().manual_seed(1)) > 0.5).float())
    spec = DataSpec("multilabel", "features", SHAPE, CLASSES)
    keys = {"task": "multilabel", "loss": "bce", "data": {"name": "digits", "batch_size": 22}, "max_duration": "6ba"}
    ends = []
    for count in (1, parts):
        folder = tmp_path / str(count)
        settings = config(folder, **keys, algorithms=["mixup", "sam"], accumulate=count)
        cp.Trainer(settings, model=small_model(), train_data=data, eval_data=data, spec=spec).fit()
        ends.append(weights(folder))
    for name, value in ends[0].items():
        assert torch.allclose(ends[1][name], value, rtol=1e-4, atol=1e-6), name


@pytest.mark.slow
def test_what_a_model_computes_over_a_batch_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, CLASSES))
    trainer = _train(tmp_path, 2, model=model, algorithms=[])
    told = [
        f"accumulate: {layers} of the model sees each of 2 microbatches separately: a step is not that of the "
        "whole device batch"
        for layers in ("batch norm (1 layer)", "dropout (1 layer)")
    ]
    assert list(trainer.notes) == told
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in told] == told
    assert _train(tmp_path / "whole", 1, model=model, algorithms=[]).notes == ()


class Spy(nn.Linear):
    """A layer that notes the dtypes of what it gives."""

    def __init__(self) -> None:
        super().__init__(6, CLASSES)
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def forward(self, input: Tensor) -> Tensor:
        outputs = super().forward(input)
        self.seen.add((self.training, outputs.dtype))
        return outputs


def test_bf16_is_the_models_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model computes in bfloat16; weights, dense targets, outputs and losses are float32."""
    seen = set()
    losses = cp.Plan.loss

    def watched(self: cp.Plan, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = losses(self, outputs, targets)
        seen.add((outputs.dtype, targets.dtype, loss.dtype, torch.is_autocast_enabled("cpu")))
        return loss

    monkeypatch.setattr(cp.Plan, "loss", watched)
    model = Spy()
    trainer = _train(tmp_path, 2, model=model, precision="bf16", algorithms=["mixup", "label_smoothing"])
    assert trainer.plan.order == ("dense_targets", "label_smoothing", "mixup")
    assert seen == {(torch.float32, torch.float32, torch.float32, False)}
    assert {dtype for training, dtype in model.seen if training} == {torch.bfloat16}
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}
