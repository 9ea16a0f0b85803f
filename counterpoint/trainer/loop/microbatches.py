"""The forward and backward passes of a device batch, whole or in microbatches."""

from __future__ import annotations

from functools import partial

from accelerate import Accelerator
from torch import nn

from counterpoint.core.declare.batch import Batch
from counterpoint.core.run.training.accumulation import Part, Passes
from counterpoint.core.run.training.engine import Engine

__all__ = ["passes_over"]


def passes_over(engine: Engine, model: nn.Module, accelerator: Accelerator, batch: Batch, parts: int) -> Passes:
    """Return the forward and backward passes over an edited device batch, split into ``parts`` microbatches."""
    split = zip(batch.inputs.chunk(parts), batch.targets.chunk(parts), strict=True)
    return Passes(
        engine,
        [Part(partial(model, inputs), targets) for inputs, targets in split],
        backward=accelerator.backward,
        unsynced=partial(accelerator.no_sync, model),
        processes=accelerator.num_processes,
        add=lambda count: accelerator.reduce(count, "sum"),
    )
