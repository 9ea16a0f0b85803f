"""Evaluation sees what a user of the model will, and what is exported needs nothing of Counterpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms.blurpool import replace_strided
from counterpoint.trainer import DataSpec
from tests.trainer.support import blobs, config

IMAGES = (3, 8, 8)
EDITS: list[Any] = [
    "trivial_augment",
    {"name": "cutout", "length": 0.5},
    {"name": "mixup", "alpha": 1.0},
    "label_smoothing",
    {"name": "selective_backprop", "keep": 0.5},
    {"name": "ema", "decay": 0.5},
]
HIDDEN: list[Any] = [
    {"name": "manifold_mixup", "module": "net.1", "alpha": 1.0},
    "sam",
    {"name": "swa", "start": "1ba"},
]


class Seen(nn.Module):
    """A network that keeps what it was evaluated on, and what it said."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.net(inputs)
        if not self.training:
            self.inputs.append(inputs.clone())
            self.outputs.append(outputs.detach().clone())
        return outputs


def _trainer(folder: Path | None, algorithms: list[Any], model: nn.Module, **keys: Any) -> cp.Trainer:
    return cp.Trainer(
        config(folder, data=None, model=None, algorithms=algorithms, max_duration="2ep", **keys),
        model=model,
        train_data=blobs(96, shape=IMAGES),
        eval_data=blobs(40, shape=IMAGES, seed=1),
        spec=DataSpec("multiclass", "unit", IMAGES, 3),
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithms", [EDITS, HIDDEN], ids=["batch", "model"])
def test_an_evaluation_sees_no_edit_of_training(tmp_path: Path, algorithms: list[Any]) -> None:
    """Its inputs are the data, in order; outputs and metrics are those of plain torch with the exported weights."""
    model = Seen()
    summary = _trainer(tmp_path / "run", algorithms, model, eval_every="1ep").fit()
    images, labels = blobs(40, shape=IMAGES, seed=1).tensors
    evaluated = [inputs for inputs in model.inputs if len(inputs) == 40]  # selective backprop runs the model too
    assert len(evaluated) == 2
    assert all(torch.equal(inputs, images) for inputs in evaluated)
    plain = Seen().eval()
    plain.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    with torch.no_grad():
        outputs = plain(images)
    torch.testing.assert_close(model.outputs[-1], outputs)
    assert summary.metrics["evaluation_accuracy"] == pytest.approx((outputs.argmax(1) == labels).float().mean().item())
    loss = nn.functional.cross_entropy(outputs, labels).item()
    assert summary.metrics["evaluation_loss"] == pytest.approx(loss, rel=1e-5)


PLAIN = """\
import sys
sys.modules["counterpoint"] = None  # whoever imports it gets an ImportError
import torch
from safetensors.torch import load_file
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
model.load_state_dict(load_file(sys.argv[1]))
given = load_file(sys.argv[2])
with torch.no_grad():
    assert torch.equal(model.eval()(given["inputs"]), given["outputs"])
assert not [name for name in sys.modules if name.startswith("counterpoint.")]
"""


@pytest.mark.slow
def test_the_weights_load_without_counterpoint(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    _trainer(tmp_path / "run", EDITS, net).fit()
    net.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    inputs = blobs(8, shape=IMAGES, seed=2).tensors[0]
    with torch.no_grad():
        save_file({"inputs": inputs, "outputs": net.eval()(inputs)}, tmp_path / "given.safetensors")
    arguments = [tmp_path / "run" / "model.safetensors", tmp_path / "given.safetensors"]
    done = subprocess.run([sys.executable, "-c", PLAIN, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def _strided() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, 2, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )


@pytest.mark.slow
def test_a_model_with_blurs_is_loaded_after_the_same_surgery(tmp_path: Path) -> None:
    model = _strided()
    _trainer(tmp_path / "run", [{"name": "blurpool", "filter_size": 4}, "ema"], model).fit()
    found = load_file(tmp_path / "run" / "model.safetensors")
    model.load_state_dict(found)
    with pytest.raises(RuntimeError, match="Missing key"):
        _strided().load_state_dict(found)
    with pytest.raises(RuntimeError, match="size mismatch"):
        _load(_strided(), found, filter_size=3)
    inputs = blobs(8, shape=IMAGES, seed=2).tensors[0]
    with torch.no_grad():
        assert torch.equal(_load(_strided(), found, filter_size=4)(inputs), model.eval()(inputs))


def _load(model: nn.Module, state: dict[str, Tensor], **settings: int) -> nn.Module:
    replace_strided(model, **settings)
    model.load_state_dict(state)
    return model.eval()
