"""A small model with batch norm, and steps of training it through an engine, whole or in microbatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import counterpoint as cp
from tests.algorithms.batches import bits, images, plan_for, targets


class Net(nn.Module):
    """Weights, and with ``norm`` batch norm's floating buffers and its counter."""

    def __init__(self, *, norm: bool = True, momentum: float | None = 0.1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(4, momentum=momentum) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.conv(x)).tanh().mean((2, 3)))
        return out


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, not copied."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def snapshot(model: nn.Module) -> dict[str, bytes]:
    """Return the bits of every parameter and buffer."""
    return {name: bits(value) for name, value in tensors(model).items()}


def engine_for(model: nn.Module, *algorithms: object, lr: float = 0.1, **stated: Any) -> cp.Engine:
    """Compose under the contract check, and make the engine."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    plan = plan_for(algorithms, **{"contract": "always", **stated})
    return cp.Engine(plan, model=model, optimizer=optimizer)


def data(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return the batch of a step; sizes differ."""
    return images(5 + step % 3, dtype), targets(5 + step % 3)


def train(engine: cp.Engine, steps: int, *, parts: int = 1, after: Callable[[], None] = lambda: None) -> list[float]:
    """Train for some steps, each device batch in ``parts`` microbatches; return the losses that the engine reports."""
    dtype = next(engine.model.parameters()).dtype
    losses = []
    for _ in range(steps):
        with engine.batch(*data(engine.batches, dtype)) as batch:
            given = list(zip(batch.inputs.chunk(parts), batch.targets.chunk(parts), strict=True))
            losses.append(engine.step(closure_over(engine, given)).item())
        after()
    return losses


def closure_over(engine: cp.Engine, given: list[tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
    """Return the passes over the microbatches of a device batch, which add up to those over the whole."""
    size = sum(len(wanted) for _, wanted in given)

    def closure() -> Tensor:
        losses = []
        for inputs, wanted in given:
            with engine.forward():
                outputs = engine.model(inputs)
            with engine.loss():
                loss = engine.plan.loss(outputs, wanted) * (len(wanted) / size)
            with engine.backward():
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    return closure
