"""The batch that a method edits, and the facts about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from counterpoint.core.arguments import shown, whole_number
from counterpoint.core.declare.kinds import IMAGES, Kind
from counterpoint.core.errors import ArgumentError

__all__ = ["Batch", "BatchSpec", "Inputs", "checked_spec"]

Inputs = Tensor | tuple[Tensor, ...]
"""What a caller may pass as inputs: one tensor, or several that get the same edits."""


@dataclass(frozen=True)
class BatchSpec:
    """The facts about a batch for ``draw``: on the host, and without data.

    ``size`` is the number of samples; ``shape`` is that of one sample's inputs, such as (C, H, W).
    """

    size: int
    shape: tuple[int, ...]
    num_classes: int | None = None

    def __post_init__(self) -> None:
        """Check that the facts are whole numbers; those of NumPy and torch become Python's."""
        if not isinstance(self.shape, tuple | list):
            raise ArgumentError(f"shape is {shown(self.shape)}; it is a tuple, the shape of the inputs of a sample")
        classes = self.num_classes
        object.__setattr__(self, "size", whole_number("size", self.size))
        object.__setattr__(self, "shape", tuple(whole_number("shape", extent) for extent in self.shape))
        object.__setattr__(
            self, "num_classes", None if classes is None else whole_number("num_classes", classes, low=1)
        )


def checked_spec(batch: object, inputs: Kind) -> BatchSpec:
    """Return the facts of a batch of a kind of inputs; raises ``ArgumentError`` for anything else."""
    if not isinstance(batch, BatchSpec):
        raise ArgumentError(f"batch is {shown(batch)}; it is a counterpoint.BatchSpec, as BatchSpec(32, (3, 8, 8))")
    if not isinstance(batch.shape, tuple):
        raise ArgumentError(f"batch.shape is {shown(batch.shape)}; it is a tuple, the shape of the inputs of a sample")
    shape = tuple(whole_number("batch.shape", extent, low=1) for extent in batch.shape)
    if inputs in IMAGES and len(shape) != 3:
        raise ArgumentError(f"batch.shape is {shape}; {inputs} inputs of a sample are (C, H, W)")
    classes = None if batch.num_classes is None else whole_number("batch.num_classes", batch.num_classes, low=1)
    return BatchSpec(whole_number("batch.size", batch.size, low=1), shape, classes)


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
    given_targets: Tensor | None = None

    @property
    def original(self) -> Tensor:
        """The targets as the loader gave them, of the samples that are in the batch: for metrics."""
        return self.targets if self.given_targets is None else self.given_targets

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
