"""What the loop passes on to the engine, the scheduler and its layers, with numbers worked out without it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import counterpoint as cp
from counterpoint import Rng
from counterpoint.trainer.loop.nonfinite import LossWatch
from tests.trainer.support import config, lines

pytestmark = pytest.mark.kind("30")


class Dropped(nn.Module):
    """Notes what its dropout leaves of ones in each forward pass of training."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.drop = nn.Linear(64, 10), nn.Dropout(0.5)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(self.drop(torch.ones(32)))
        out: Tensor = self.head(x.flatten(1))
        return out


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_each_rank_draws_its_own(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods and layers of the process with that index, in a run that otherwise has one process."""
    steps, drawn = [], []

    def add(watch: LossWatch, step: int, loss: Tensor, draws: dict[str, Any], inputs: Tensor) -> None:
        steps.append((step, len(inputs)))
        drawn.append(draws)

    model = Dropped()
    trainer = cp.Trainer(config(None, model=None, algorithms=["mixup"], max_duration="13ba"), model=model)
    monkeypatch.setattr(Accelerator, "process_index", rank)
    monkeypatch.setattr(LossWatch, "add", add)
    trainer.fit()
    assert steps == [(step, 128) for step in range(13)]
    shape = trainer.data.spec.input_shape
    for step, draws in enumerate(drawn):
        wanted = trainer.plan.draws(step, cp.BatchSpec(128, shape, 10), rank=rank)["mixup"]
        assert torch.equal(torch.as_tensor(draws["mixup"].perm), torch.as_tensor(wanted.perm))
    for step, seen in enumerate(model.seen[-13:]):
        generator = torch.Generator().manual_seed(int(Rng(3, "layers", step, rank).integers(0, 2**31)))
        kept = torch.empty(32).bernoulli_(0.5, generator=generator)
        assert torch.equal(seen, 2 * kept)


def test_the_scheduler_knows_the_epoch_and_the_run(tmp_path: Path) -> None:
    """Of 22 steps, 11 an epoch: the first epoch warms up to 0.2, the second falls along half a cosine."""
    cp.Trainer(config(tmp_path / "run", scheduler={"name": "cosine", "warmup": "1ep"})).fit()
    rates = {line["step"]: line["lr"] for line in lines(tmp_path / "run") if "lr" in line}
    assert rates == {11: pytest.approx(0.2), 22: pytest.approx(0.1 * (1 + math.cos(math.pi * 10 / 11)))}
