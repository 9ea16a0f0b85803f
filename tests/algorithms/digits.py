"""Digits as bytes, and a few steps of training on them through an engine."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import counterpoint as cp

FACTS: dict[str, Any] = {
    "loss": nn.CrossEntropyLoss(),
    "task": "multiclass",
    "num_classes": 10,
    "inputs": "bytes",
    "seed": 17,
    "contract": "always",
}
SIZE = 64


def digit_batches() -> list[tuple[Tensor, Tensor]]:
    """Return the digits in batches of images (N, 1, 8, 8), bytes from 0 to 255, and classes."""
    data = load_digits()
    pixels = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return list(zip(pixels.split(SIZE), torch.from_numpy(data.target).split(SIZE), strict=True))


def engine_for(*algorithms: object) -> cp.Engine:
    """Compose for digits under the contract check, with a small model of one set of weights."""
    plan = cp.compose(algorithms, **FACTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def train(engine: cp.Engine, steps: int) -> list[float]:
    """Train for some steps from where the engine stands; return the losses."""
    batches, losses = digit_batches(), []
    for _ in range(steps):
        with engine.batch(*batches[engine.batches % len(batches)]) as batch:

            def closure(x: Tensor = batch.inputs, y: Tensor = batch.targets) -> Tensor:
                loss = engine.plan.loss(engine.model(x), y)
                loss.backward()
                return loss.detach()

            losses.append(float(engine.step(closure)))
    return losses


def resumed(*algorithms: object, first: int, then: int) -> tuple[list[float], list[float]]:
    """Return the losses of a whole run, and of one that was stopped after ``first`` steps and resumed."""
    whole = train(engine_for(*algorithms), first + then)
    stopped = engine_for(*algorithms)
    losses = train(stopped, first)
    fresh = engine_for(*algorithms)
    fresh.model.load_state_dict(stopped.model.state_dict())
    fresh.load_state_dict(stopped.state_dict())
    return whole, losses + train(fresh, then)
