"""Layers such as dropout draw anew in each step of each run, from the seed and the step alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp

pytestmark = pytest.mark.kind("30")


class Draws(nn.Module):
    """Notes the numbers that its layers would draw in each forward pass of training."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.drop = nn.Linear(64, 10), nn.Dropout(0.5)
        self.seen: list[tuple[float, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.append(tuple(self.drop(torch.ones(32)).tolist()))
        out: Tensor = self.head(x.flatten(1))
        return out


def drawn(seed: int, batches: int = 14) -> list[tuple[float, ...]]:
    model = Draws()
    config = {
        "seed": seed,
        "task": "multiclass",
        "data": {"name": "digits", "batch_size": 128},
        "max_duration": f"{batches}ba",
        "algorithms": [],
    }
    cp.Trainer(config, model=model).fit()
    return model.seen


@pytest.mark.slow
def test_each_step_of_each_seed_draws_its_own() -> None:
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first == again
    assert len(first) == len(set(first)) == 14  # more than the batches of an epoch
    assert not set(first) & set(other)
