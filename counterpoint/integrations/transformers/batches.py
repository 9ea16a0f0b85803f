"""Batches of Hugging Face's Trainer: how many a step takes, what counts of them in evaluation, and their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from counterpoint.core.errors import RunError
from counterpoint.core.run.batch.draws import describe_draws
from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.engine import Engine
from counterpoint.core.run.training.shares import as_mean

__all__ = ["batches_in", "counted", "describe_batches", "logits_of", "weighed_loss"]


class _LoaderState(Protocol):
    """What Accelerate knows of the loader at work."""

    end_of_dataloader: bool
    remainder: int


def counted(size: int, loader: _LoaderState, rank: int) -> int:
    """Return how many samples of this process's batch of ``size`` count in evaluation.

    Samples that are there twice do not: where processes would have different numbers of samples at the end of the
    data, Accelerate fills them up with the first ones. ``remainder`` is how many of the last batch of all are real.
    """
    if not loader.end_of_dataloader or loader.remainder <= 0:
        return size
    return max(0, min(size, loader.remainder - size * rank))


def weighed_loss(plan: Plan, logits: Tensor, targets: Tensor, real: int) -> Tensor:
    """Return the loss of the first ``real`` samples of a batch times what it counts, and what it counts."""
    if not real:
        return logits.new_zeros(2)
    loss = plan.loss(logits[:real], targets[:real])
    mean, weight = as_mean(plan, loss.detach(), targets[:real])
    weighed = torch.as_tensor(weight, device=mean.device, dtype=mean.dtype)
    return torch.stack([torch.where(weighed > 0, mean * weighed, 0), weighed])


def describe_batches(engine: Engine, count: int) -> str:
    """Return the draws of the ``count`` open batches of an engine in words."""
    found = []
    for number in range(count):
        with engine.on(number):
            found.append(describe_draws(engine.draws()))
    return " | ".join(found)


def batches_in(steps: int, epoch: int | None, parts: int) -> int:
    """Return the batches of the loader in some optimizer steps of ``parts`` batches, the last of an epoch shorter.

    >>> batches_in(4, 5, 2)  # 2 + 2 + 1 batches in the first epoch, 2 in the second
    7
    """
    if epoch is None:
        return steps * parts
    epochs, rest = divmod(steps, -(-epoch // parts))
    return epochs * epoch + rest * parts


def logits_of(outputs: object) -> Tensor:
    """Return what the loss is computed from: the outputs' logits, or the first of a tuple."""
    found = outputs
    if isinstance(outputs, Mapping):
        found = outputs.get("logits")
    elif isinstance(outputs, tuple) and outputs:
        found = outputs[0]
    if isinstance(found, Tensor):
        return found
    held = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
    raise RunError(f"the model returned {held}, and the plan's loss needs its logits: return a tensor under 'logits'")
