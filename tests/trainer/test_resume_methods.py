"""Every registered method resumes from the trainer's checkpoint bit for bit.

What edits batches alone remembers nothing, so one case of it is enough; of the others each is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import counterpoint as cp
from counterpoint.core import Algorithm
from counterpoint.plugins import ALGORITHMS
from counterpoint.trainer import DataSpec
from counterpoint.trainer.runs.checkpoint import list_checkpoints
from tests.algorithms.cases import CASES, EditCase

IMAGES = frozenset({"image", "unit", "normalized", "bytes"})
BATCH, EPOCH, STEPS, CLASSES = 4, 4, 7, 5
REGISTERED = [entry.name for entry in ALGORITHMS.entries() if entry.package == "counterpoint"]
RUNS = [
    pytest.param(case.algorithm, case.inputs[0] if isinstance(case, EditCase) else "image", id=f"{name}-{number}")
    for name in REGISTERED
    for number, case in enumerate(CASES[name])
    if number == 0 or not isinstance(case, EditCase)
]


class Examples(Dataset[tuple[Tensor, int]]):
    """A few images; ``left`` is how many may still be asked for before the run is interrupted."""

    def __init__(self, inputs: str) -> None:
        images = torch.randint(0, 256, (BATCH * EPOCH, 3, 8, 8), generator=torch.Generator().manual_seed(7))
        self._images = images.to(torch.uint8) if inputs == "bytes" else images / 255
        self.left = 10**6

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self._images[index], index % CLASSES


class Floats(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.float()


def model() -> nn.Module:
    """A network with everything that a run must restore or replay: batch norm, dropout, layers that methods replace."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return nn.Sequential(
            Floats(),
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(64, CLASSES),
        )


def fit(folder: Path, algorithm: Algorithm[Any], inputs: str, *, items: int = 10**6) -> None:
    """Train, or go on; the run is interrupted once it has asked for so many examples."""
    config = {
        "seed": 5,
        "task": "multiclass",
        "data": {"name": "digits", "batch_size": BATCH},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "scheduler": "cosine",
        "max_duration": f"{STEPS}ba",
        "algorithms": [algorithm.component()],
        "checkpoint_every": "2ba",
        "eval_every": "3ba",
        "run_dir": str(folder),
    }
    data = Examples(inputs)
    spec = DataSpec("multiclass", inputs, (3, 8, 8), CLASSES)
    given: dict[str, Any] = {"train_data": data, "eval_data": Examples(inputs), "spec": spec, "model_inputs": IMAGES}
    trainer = cp.Trainer(config, model=model(), **given)
    data.left = items
    trainer.fit(resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "inputs"), RUNS)
def test_a_run_of_every_method_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, algorithm: Algorithm[Any], inputs: str
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    fit(whole, algorithm, inputs)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, algorithm, inputs, items=5 * BATCH + 2)  # in the second epoch, one step after a checkpoint
    assert list_checkpoints(stopped / "checkpoints")[-1].name == "step-00000004"
    assert not (stopped / "model.safetensors").exists()
    fit(stopped, algorithm, inputs)
    last = Path("checkpoints", f"step-{STEPS:08d}", "tensors.safetensors")
    for name in ("model.safetensors", "metrics.jsonl", "plan.json", last):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
