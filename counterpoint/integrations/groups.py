"""The microbatches of one optimizer step as one device batch, in a loop that hands them over together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import torch

from counterpoint.core.errors import DataError
from counterpoint.integrations.fields import Fields

__all__ = ["Spans", "joined", "split"]

_T = TypeVar("_T")


class Spans:
    """Spans that begin and end in different calls of somebody else's loop, innermost last."""

    def __init__(self) -> None:
        self._open: list[AbstractContextManager[Any]] = []

    def begin(self, span: AbstractContextManager[_T]) -> _T:
        """Enter a span inside those that are open."""
        value = span.__enter__()
        self._open.append(span)
        return value

    def end(self, count: int = 1) -> None:
        """Leave the innermost spans, which ended well."""
        for _ in range(count):
            self._open.pop().__exit__(None, None, None)

    @contextmanager
    def unwound(self) -> Iterator[None]:
        """Leave what is still open when the context ends, and tell it of the error that ended it."""
        with ExitStack() as spans:
            try:
                yield
            finally:
                for span in self._open:
                    spans.push(span)
                self._open.clear()


def joined(batches: Sequence[_T], fields: Fields) -> _T:
    """Return a batch like the first one that holds the inputs and targets of all.

    Raises ``DataError`` if their samples differ in shape, or a place holds no tensor.
    """
    if len(batches) == 1:
        return batches[0]
    inputs, targets = zip(*(fields.read(batch) for batch in batches), strict=True)
    places = [*zip(*inputs, strict=True), targets]
    for place in places:
        shapes = {tuple(tensor.shape[1:]) for tensor in place}
        if len(shapes) > 1:
            raise DataError(
                f"the microbatches of one step hold samples of shapes {sorted(shapes)}, and are edited as one batch: "
                "bring all samples to one shape, or take a step for each batch (gradient_accumulation_steps=1)"
            )
    *together, targets_together = (torch.cat(place) for place in places)
    return fields.write(batches[0], together, targets_together)


def split(edited: _T, batches: Sequence[_T], fields: Fields) -> list[_T]:
    """Return the given batches with the inputs and targets that they have in the edited whole.

    What is not named in ``fields`` stays with its batch. Where a method changed the number of samples, these are dealt
    out evenly, perhaps to fewer batches.
    """
    inputs, targets = fields.read(edited)
    sizes = [len(fields.read(batch)[1]) for batch in batches]
    if sum(sizes) == len(targets):
        parts = zip(batches, *(torch.split(tensor, sizes) for tensor in (*inputs, targets)), strict=True)
    else:
        chunks = [tensor.chunk(len(batches)) for tensor in (*inputs, targets)]
        parts = zip(batches[: len(chunks[0])], *chunks, strict=True)
    return [fields.write(batch, own[:-1], own[-1]) for batch, *own in parts]
