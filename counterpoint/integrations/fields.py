"""Where a batch holds its inputs and its targets: tuples, lists, mappings and dataclasses, also nested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar, cast

from torch import Tensor

from counterpoint.core.errors import DataError
from counterpoint.core.run.training.engine import Engine
from counterpoint.integrations.nested import Keys, Path, find, held_tensors, leaves, name_of, parts, written

__all__ = ["FIRST_AND_SECOND", "Fields", "Path"]

_BatchT = TypeVar("_BatchT")


@dataclass(frozen=True)
class Fields:
    """Where a batch holds its inputs and its targets.

    ``inputs`` names one or several tensors, which get the same edits; ``targets`` names one. A place is a position in a
    tuple or list (``0``), a key of a mapping, or a field of a dataclass or named tuple (``"image"``). Nested places are
    dotted (``"views.0"``) or tuples (``("views", 0)``); use tuples for keys with dots. Other fields are not changed.
    Raises ``DataError`` if no input is named, or a place is named twice.

    A batch of such containers is never changed: ``write`` makes new ones around the tensors, of the same types. Of a
    dataclass it is a shallow copy, for which ``__post_init__`` does not run again.

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
        places = [tuple(map(str, parts(path))) for path in self._paths]
        for place, other in combinations(places, 2):
            if place[: len(other)] == other[: len(place)]:
                raise DataError(f"the places {name_of(place)!r} and {name_of(other)!r} are one, or one holds the other")

    @property
    def _paths(self) -> tuple[Path, ...]:
        return (*self.inputs, self.targets)

    def read(self, batch: object) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the tensors at the places of the inputs, and the one at that of the targets.

        Raises ``DataError`` naming the place, what is there, and what the batch holds.
        """
        *inputs, targets = self._find(batch).values()
        return tuple(inputs), targets

    def write(self, batch: _BatchT, inputs: Sequence[Tensor], targets: Tensor) -> _BatchT:
        """Return a batch of the same structure that holds these tensors; the given one is left as it is.

        ``inputs`` has one tensor for each place. What is not named is the same object in both. Raises ``DataError`` as
        ``read`` does.
        """
        if len(inputs) != len(self.inputs):
            raise DataError(f"{len(inputs)} tensors for {len(self.inputs)} places of inputs: give one for each")
        filled: object = batch
        for keys, tensor in zip(self._find(batch), (*inputs, targets), strict=True):
            filled = written(filled, keys, tensor)
        return cast(_BatchT, filled)

    @contextmanager
    def edited(self, engine: Engine, batch: _BatchT, *, donate: bool = False) -> Iterator[_BatchT]:
        """Edit a device batch by the engine's plan, and span what is done with it, as ``Engine.batch`` does.

        Yields a batch of the same structure with the edited inputs and targets. Raises ``DataError`` as ``read`` does,
        and where the plan leaves fewer samples than there were while the batch holds more than is named.
        """
        inputs, targets = self.read(batch)
        with engine.batch(inputs, targets, donate=donate) as edited:
            if len(edited.targets) != len(targets):
                self._check_alone(batch, f"{len(edited.targets)} of {len(targets)} samples")
            yield self.write(batch, edited.all_inputs, edited.targets)

    def _find(self, batch: object) -> dict[Keys, Tensor]:
        """Return the tensors that are named, by where they are; the targets are the last."""
        try:
            found = dict(find(batch, parts(path)) for path in self._paths)
        except DataError as error:
            fitting = _fitting(batch) if self == FIRST_AND_SECOND else ""
            if not fitting:
                raise
            raise DataError(f"{error}; say where inputs and targets are, as {fitting}") from error
        if len(found) < len(self._paths):
            names = ", ".join(repr(name_of(parts(path))) for path in self._paths)
            raise DataError(f"two of the places {names} are one in this batch, by its name and by its position")
        return found

    def _check_alone(self, batch: object, left: str) -> None:
        """Check that the batch holds nothing but what is named, which alone has followed a choice of samples."""
        named = self._find(batch)
        others = [name_of(keys) for keys in leaves(batch) if keys not in named]
        if others:
            raise DataError(
                f"the plan leaves {left}, and cannot choose the same of {', '.join(map(repr, others))}: name them as "
                "inputs, take them out of the batch, or leave out the method that chooses samples"
            )


def _fitting(batch: object) -> str:
    """Return an argument that names two tensors of a batch as its inputs and targets; empty where it has fewer."""
    tensors = [keys for keys, tensor in held_tensors(batch) if tensor.ndim]
    places: list[Path] = [keys[0] if len(keys) == 1 else name_of(keys) for keys in tensors]
    if len(places) < 2:
        return ""
    targets = next((place for place in places if "label" in str(place) or "target" in str(place)), places[-1])
    inputs = next(place for place in places if place != targets)
    return f"fields=Fields(inputs=({inputs!r},), targets={targets!r})"


FIRST_AND_SECOND = Fields((0,), 1)
"""The fields of a batch that is a pair of inputs and targets."""
