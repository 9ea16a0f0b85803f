"""What a method sees of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from counterpoint.core.kinds import Kind

__all__ = ["Batch", "BatchSpec", "Inputs"]

Inputs = Tensor | tuple[Tensor, ...]
"""What a caller may give as inputs: one tensor, or several that are edited alike."""


@dataclass(frozen=True)
class BatchSpec:
    """What ``draw`` may know of a batch: facts on the host, no data.

    ``size`` is the number of samples; ``shape`` is that of one sample's inputs, such as (C, H, W).
    """

    size: int
    shape: tuple[int, ...]
    num_classes: int | None = None


@dataclass(frozen=True)
class Batch:
    """The inputs and targets of a device batch, with what is stated about them.

    ``inputs`` has shape (N, ...), images (N, C, H, W). ``targets`` is as ``targets_kind`` says: dense targets are
    (N, C) or (N, C, positions). ``writable`` is true where the plan owns the memory of ``inputs``, so that a step may
    edit it in place. Of several input tensors, ``inputs`` is the first and ``further`` holds the others: a method is
    called with each in turn as ``inputs``, and the same draws.
    """

    inputs: Tensor
    targets: Tensor
    inputs_kind: Kind
    targets_kind: Kind
    task: str
    num_classes: int | None = None
    writable: bool = False
    further: tuple[Tensor, ...] = ()

    @property
    def all_inputs(self) -> tuple[Tensor, ...]:
        """Every input tensor, in the order in which they were given."""
        return (self.inputs, *self.further)

    @cached_property
    def spec(self) -> BatchSpec:
        """The facts that ``draw`` receives."""
        return BatchSpec(len(self.inputs), tuple(self.inputs.shape[1:]), self.num_classes)

    def with_inputs(self, inputs: Tensor) -> Batch:
        """Return this batch with other inputs."""
        return replace(self, inputs=inputs)

    def with_targets(self, targets: Tensor) -> Batch:
        """Return this batch with other targets."""
        return replace(self, targets=targets)
