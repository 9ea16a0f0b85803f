"""The forward and backward passes of a device batch, whole or in microbatches."""

from __future__ import annotations

from functools import partial

from accelerate import Accelerator
from torch import nn

from counterpoint.core.declare.batch import Batch
from counterpoint.core.run.training import accumulation as passes
from counterpoint.core.run.training.engine import Engine
from counterpoint.core.run.training.shares import as_mean

__all__ = ["Passes", "as_mean"]


class Passes(passes.Passes):
    """Runs forward and backward over an edited device batch, split into ``parts`` microbatches."""

    def __init__(self, engine: Engine, model: nn.Module, accelerator: Accelerator, batch: Batch, parts: int) -> None:
        split = zip(batch.inputs.chunk(parts), batch.targets.chunk(parts), strict=True)
        super().__init__(
            engine,
            [passes.Part(partial(model, inputs), targets) for inputs, targets in split],
            backward=accelerator.backward,
            unsynced=partial(accelerator.no_sync, model),
            processes=accelerator.num_processes,
            add=lambda count: accelerator.reduce(count, "sum"),
        )
