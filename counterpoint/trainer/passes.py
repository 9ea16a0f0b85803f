"""The forward and backward passes of a device batch, whole or in microbatches."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from counterpoint.core.batch import Batch
from counterpoint.core.engine import Engine
from counterpoint.core.shares import as_mean, shares

__all__ = ["Passes", "as_mean"]


class Passes:
    """Runs forward and backward over a device batch; a call is what ``Engine.step`` takes as its closure.

    The edited batch is split into ``parts`` microbatches, of which each part's loss counts by its share of what the
    mean over the global batch divides by, those of all processes together: so the gradient, which processes average,
    is that of the global batch, but for what a model computes over a batch, such as batch-norm statistics. The loss
    that a call returns is scaled alike: its mean over the processes is the loss of the global batch. ``outputs`` are
    those of the first call, on the parameters before the step.
    """

    def __init__(self, engine: Engine, model: nn.Module, accelerator: Accelerator, batch: Batch, parts: int) -> None:
        self._engine, self._model, self._accelerator = engine, model, accelerator
        self._parts = list(zip(batch.inputs.chunk(parts), batch.targets.chunk(parts), strict=True))
        self._shares = shares(
            engine.plan,
            [targets for _, targets in self._parts],
            processes=accelerator.num_processes,
            add=lambda count: accelerator.reduce(count, "sum"),
        )
        self._outputs: list[Tensor] = []

    @property
    def outputs(self) -> Tensor:
        """The model's outputs for the whole batch."""
        return torch.cat(self._outputs)

    def as_mean(self, loss: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the loss of a call as a mean, and what it counts, so that those of all processes add up."""
        if self._shares.weight is None:
            size = sum(len(inputs) for inputs, _ in self._parts)
            return loss / (size * self._accelerator.num_processes), float(size)
        return loss, self._shares.weight

    def __call__(self) -> Tensor:
        """Add the gradient of the whole batch to the parameters' and return its loss."""
        first = not self._outputs
        losses = []
        for number in range(len(self._parts)):
            waits = number + 1 < len(self._parts)  # processes share their gradients once, after the last part
            with self._accelerator.no_sync(self._model) if waits else nullcontext():
                outputs, loss = self._run(number)
            losses.append(loss)
            if first:
                self._outputs.append(outputs)
        return torch.stack(losses).sum()

    def _run(self, number: int) -> tuple[Tensor, Tensor]:
        engine, (inputs, targets) = self._engine, self._parts[number]
        with engine.forward():
            outputs = self._model(inputs)
        with engine.loss():
            loss = self._shares.scaled(number, outputs, engine.plan.loss(outputs, targets))
        with engine.backward():
            self._accelerator.backward(loss)
        return outputs.detach(), loss.detach()
