"""A model that comes wrapped into the trainer: its checkpoints and exported weights have the names of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import counterpoint as cp
from tests.algorithms.batches import bits

pytestmark = [pytest.mark.kind("1"), pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]


def plain() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def inner() -> nn.Module:
    model = plain()
    model[1] = torch.compile(model[1], backend="eager")
    return model


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "compiled": lambda: torch.compile(plain(), backend="eager"),
    "inner compiled": inner,
    "data parallel": lambda: nn.DataParallel(plain()),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRAPPED)
def test_a_run_exports_names_that_the_plain_model_loads(kind: str, tmp_path: Path) -> None:
    found = []
    for made in (plain, WRAPPED[kind]):
        folder = tmp_path / str(len(found))
        config = {
            "task": "multiclass",
            "data": {"name": "digits", "batch_size": 128},
            "max_duration": "3ba",
            "eval_every": "3ba",
            "run_dir": str(folder),
            "algorithms": ["ema"],
        }
        cp.Trainer(config, model=made()).fit()
        found.append(load_file(folder / "model.safetensors"))
    other = plain()
    other.load_state_dict(found[1])
    assert {name: bits(value) for name, value in found[1].items()} == {
        name: bits(value) for name, value in found[0].items()
    }
