"""The forward and backward passes of a device batch, whole or in microbatches."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from counterpoint.core.batch import Batch
from counterpoint.core.engine import Engine
from counterpoint.core.plan import Plan

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
        self._shares = _shares(engine.plan, [targets for _, targets in self._parts], accelerator)
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
        for number, ((inputs, targets), factor) in enumerate(
            zip(self._parts, self._shares.factors, strict=True), start=1
        ):
            waits = number < len(self._parts)  # processes share their gradients once, after the last part
            with self._accelerator.no_sync(self._model) if waits else nullcontext():
                outputs, loss = self._run(inputs, targets, factor)
            losses.append(loss)
            if first:
                self._outputs.append(outputs)
        return torch.stack(losses).sum()

    def _run(self, inputs: Tensor, targets: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        engine = self._engine
        with engine.forward():
            outputs = self._model(inputs)
        with engine.loss():
            loss = engine.plan.loss(outputs, targets)
            if factor != 1:
                # A part in which no target counts has a mean of 0 / 0, which no factor turns back into a number.
                loss = loss * factor if factor else outputs.sum() * 0
        with engine.backward():
            self._accelerator.backward(loss)
        return outputs.detach(), loss.detach()


@dataclass(frozen=True)
class _Shares:
    """How the losses of parts add up to that of the global batch.

    ``factors`` are those on the loss of each part of this process, with which the mean over the processes of their sum
    is the global loss. ``weight`` is what the mean divides by, for each process; ``None`` where losses simply add up.
    """

    factors: list[float]
    weight: Tensor | float | None


def _shares(plan: Plan, parts: list[Tensor], accelerator: Accelerator) -> _Shares:
    processes = accelerator.num_processes
    if plan.loss_spec is None or plan.loss_spec.denominator is None:
        return _Shares([float(processes)] * len(parts), None)
    counts = torch.stack([plan.loss_spec.denominator(targets) for targets in parts])
    total: Tensor = counts.sum() if processes == 1 else accelerator.reduce(counts.sum(), "sum")
    if processes == len(parts) == 1:
        return _Shares([1.0], total)  # without a wait for the device
    *shares, whole = torch.cat([counts, total[None]]).tolist()
    factors = [share * processes / whole if whole else float("nan") for share in shares]
    return _Shares(factors, whole / processes)


def as_mean(plan: Plan, loss: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return the loss of one process's batch as a mean, and what it is the mean over; a sum becomes a mean."""
    if plan.loss_spec is None or plan.loss_spec.denominator is None:
        return loss / len(targets), float(len(targets))
    return loss, plan.loss_spec.denominator(targets)
