"""What the user states about the data and the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from counterpoint.core.declare.kinds import BYTES, Kind, Task
from counterpoint.core.plan.schedule import Clock

__all__ = ["Facts"]


@dataclass(frozen=True)
class Facts:
    """What is stated about the task, the data and the length of the run.

    ``num_classes``, ``batch_size`` (samples in a device batch) and the clock's counts are ``None`` where not stated.
    ``model_inputs`` are the kinds that the model takes (``None``: any but raw bytes); ``microbatches`` is the number of
    parts into which the loop splits a device batch.
    """

    task: Task
    inputs: Kind
    num_classes: int | None = None
    batch_size: int | None = None
    clock: Clock = field(default_factory=Clock)
    seed: int = 0
    model_inputs: frozenset[Kind] | None = None
    microbatches: int = 1

    def model_takes(self, inputs: Kind) -> bool:
        """Whether the model takes inputs of a kind."""
        return inputs != BYTES if self.model_inputs is None else inputs in self.model_inputs

    def to_data(self) -> dict[str, Any]:
        """Return the facts as plain data."""
        return {
            "task": self.task.name,
            "targets": self.task.targets.name,
            "inputs": self.inputs.name,
            "num_classes": self.num_classes,
            "batch_size": self.batch_size,
            "steps_per_epoch": self.clock.steps_per_epoch,
            "total_batches": self.clock.total,
            "seed": self.seed,
            "model_inputs": None if self.model_inputs is None else sorted(kind.name for kind in self.model_inputs),
            "microbatches": self.microbatches,
        }
