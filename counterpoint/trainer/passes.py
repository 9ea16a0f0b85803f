"""The forward and backward passes of a device batch, whole or in microbatches."""

from __future__ import annotations

from contextlib import nullcontext

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
    whole batch's mean divides by: so the gradient is that of the whole batch, but for what a model computes over a
    batch, such as batch-norm statistics. ``outputs`` are those of the first call, on the parameters before the step.
    """

    def __init__(self, engine: Engine, model: nn.Module, accelerator: Accelerator, batch: Batch, parts: int) -> None:
        self._engine, self._model, self._accelerator = engine, model, accelerator
        self._parts = list(zip(batch.inputs.chunk(parts), batch.targets.chunk(parts), strict=True))
        self._shares = _shares(engine.plan, batch.targets, [targets for _, targets in self._parts])
        self._outputs: list[Tensor] = []

    @property
    def outputs(self) -> Tensor:
        """The model's outputs for the whole batch."""
        return torch.cat(self._outputs)

    def __call__(self) -> Tensor:
        """Add the gradient of the whole batch to the parameters' and return its loss."""
        first = not self._outputs
        losses = []
        for number, ((inputs, targets), share) in enumerate(zip(self._parts, self._shares, strict=True), start=1):
            waits = number < len(self._parts)  # processes share their gradients once, after the last part
            with self._accelerator.no_sync(self._model) if waits else nullcontext():
                outputs, loss = self._run(inputs, targets, share)
            losses.append(loss)
            if first:
                self._outputs.append(outputs)
        return torch.stack(losses).sum()

    def _run(self, inputs: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
        engine = self._engine
        with engine.forward():
            outputs = self._model(inputs)
        with engine.loss():
            loss = engine.plan.loss(outputs, targets)
            if share != 1:
                # A part in which no target counts has a mean of 0 / 0, which no factor turns back into a number.
                loss = loss * share if share else outputs.sum() * 0
        with engine.backward():
            self._accelerator.backward(loss)
        return outputs.detach(), loss.detach()


def _shares(plan: Plan, whole: Tensor, parts: list[Tensor]) -> list[float]:
    """Return the factor on each part's loss with which they add up to the loss of the whole batch."""
    if len(parts) == 1 or plan.loss_spec is None or plan.loss_spec.denominator is None:
        return [1.0] * len(parts)
    total, *counts = torch.stack([plan.loss_spec.denominator(targets) for targets in (whole, *parts)]).tolist()
    return [count / total if total else float("nan") for count in counts]


def as_mean(plan: Plan, loss: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return a batch's loss as a mean, and what it is the mean over; a sum becomes a mean over examples."""
    if plan.loss_spec is None or plan.loss_spec.denominator is None:
        return loss / len(targets), float(len(targets))
    return loss, plan.loss_spec.denominator(targets)
