"""Where a batch holds its inputs and its targets: tuples, lists, mappings and dataclasses, also nested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from torch import Tensor

from counterpoint.core.engine import Engine
from counterpoint.core.errors import DataError
from counterpoint.integrations.places import Path, name_of, parts, read, written

__all__ = ["FIRST_AND_SECOND", "Fields", "Path"]

_BatchT = TypeVar("_BatchT")


@dataclass(frozen=True)
class Fields:
    """Where a batch holds its inputs and its targets.

    ``inputs`` names one or several tensors, which are edited alike; ``targets`` names one. A place is a position in a
    tuple or list (``0``), a key of a mapping, or a field of a dataclass or named tuple (``"image"``); nested places are
    dotted (``"views.0"``) or tuples (``("views", 0)``), the latter also for keys that hold dots. What is not named
    passes through untouched. Raises ``DataError`` where no input is named, or a place twice.

    >>> import torch
    >>> fields = Fields(("image",), "label")
    >>> batch = {"image": torch.zeros(2), "label": torch.tensor([0, 1]), "id": ["a", "b"]}
    >>> (image,), label = fields.read(batch)
    >>> fields.write(batch, (image + 1,), label)
    {'image': tensor([1., 1.]), 'label': tensor([0, 1]), 'id': ['a', 'b']}
    """

    inputs: tuple[Path, ...]
    targets: Path

    def __post_init__(self) -> None:
        """Check that every place is named once."""
        if not isinstance(self.inputs, tuple) or not self.inputs:
            raise DataError(f"inputs={self.inputs!r}: name a tuple of places, such as (0,) or ('image',)")
        names = [name_of(parts(path)) for path in (*self.inputs, self.targets)]
        for number, place in enumerate(names):
            for other in names[:number]:
                if f"{place}.".startswith(f"{other}.") or f"{other}.".startswith(f"{place}."):
                    raise DataError(f"the places {other!r} and {place!r} are one, or one lies in the other")

    def read(self, batch: object) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the tensors at the places of the inputs, and the one at that of the targets.

        Raises ``DataError`` naming the place, what is there, and what the batch holds.
        """
        return tuple(read(batch, parts(path)) for path in self.inputs), read(batch, parts(self.targets))

    def write(self, batch: _BatchT, inputs: Sequence[Tensor], targets: Tensor) -> _BatchT:
        """Return a batch of the same structure that holds these tensors; the given one is left as it is.

        ``inputs`` has one tensor for each place. What is not named is the same object in both. Raises ``DataError`` as
        ``read`` does.
        """
        if len(inputs) != len(self.inputs):
            raise DataError(f"{len(inputs)} tensors for {len(self.inputs)} places of inputs: give one for each")
        self.read(batch)
        filled: object = batch
        for path, tensor in zip((*self.inputs, self.targets), (*inputs, targets), strict=True):
            filled = written(filled, parts(path), tensor)
        return cast(_BatchT, filled)

    @contextmanager
    def edited(self, engine: Engine, batch: _BatchT, *, donate: bool = False) -> Iterator[_BatchT]:
        """Edit a device batch by the engine's plan, and span what is done with it, as ``Engine.batch`` does.

        Yields a batch of the same structure with the edited inputs and targets.
        """
        (inputs,), targets = self.read(batch)
        with engine.batch(inputs, targets, donate=donate) as edited:
            yield self.write(batch, (edited.inputs,), edited.targets)


FIRST_AND_SECOND = Fields((0,), 1)
"""The fields of a batch that is a pair of inputs and targets."""
