"""Small configs, data and images for the tests of the trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import TensorDataset

from counterpoint.trainer.runs.checkpoint import list_checkpoints

METHODS = [{"name": "mixup", "alpha": 1.0}, {"name": "cutout", "p": 0.5}, {"name": "ema", "half_life": 4}]


def config(folder: Path | None, **keys: Any) -> dict[str, Any]:
    """A quick run on digits: 22 steps of an MLP in two epochs."""
    base: dict[str, Any] = {
        "seed": 3,
        "task": "multiclass",
        "data": {"name": "digits", "batch_size": 128},
        "model": {"name": "mlp", "hidden": 64},
        "scheduler": "cosine",
        "optimizer": {"name": "sgd", "lr": 0.2},
        "max_duration": "2ep",
    }
    return {**base, **({} if folder is None else {"run_dir": str(folder)}), **keys}


def blobs(count: int = 64, classes: int = 3, shape: tuple[int, ...] = (4,), seed: int = 0) -> TensorDataset:
    """Examples of classes that a model can learn: noise around a mean for each class."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(99))
    targets = torch.arange(count) % classes
    return TensorDataset(means[targets] + 0.3 * torch.randn(count, *shape, generator=generator), targets)


def weights(folder: Path) -> dict[str, Tensor]:
    """The final weights of a run."""
    return load_file(folder / "model.safetensors")


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Two runs ended at the same weights, bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype, name
        assert torch.equal(value, second[name]), name


def assert_same_end(folder: Path, whole: Path) -> None:
    """Two runs left the same weights, averages, metrics, plan and checkpoint, bit for bit, and nothing half-written."""
    for name in ("model.safetensors", "metrics.jsonl", "plan.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    found, wanted = (list_checkpoints(path / "checkpoints") for path in (folder, whole))
    assert [path.name for path in found] == [path.name for path in wanted]
    assert (found[-1] / "tensors.safetensors").read_bytes() == (wanted[-1] / "tensors.safetensors").read_bytes()
    assert not list(folder.rglob(".*.partial"))


def assert_same_steps(log: Path, whole: Path) -> None:
    """Each step had the loss and the draws of the whole run, however often it was trained."""
    wanted = whole.read_text().splitlines()
    assert set(log.read_text().splitlines()) == set(wanted)
    assert len(wanted) == len(set(wanted))


def write_images(root: Path, classes: int = 2, count: int = 4, size: tuple[int, int] = (12, 10)) -> None:
    """A folder of random PNG and JPEG images, of the same classes in ``train`` and ``val``."""
    pixels = np.random.Generator(np.random.Philox(5))
    for part in ("train", "val"):
        for label in range(classes):
            folder = root / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(pixels.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
                image.save(folder / f"{number}.{'png' if number % 2 else 'jpg'}")
