"""The open device batches: one, or those that one optimizer step takes together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from counterpoint.core.declare.context import Opened
from counterpoint.core.declare.events import Event
from counterpoint.core.errors import RunError

__all__ = ["OpenedBatches"]


class OpenedBatches:
    """The device batches whose spans are open, the first of them first, and which of them a pass is over."""

    def __init__(self) -> None:
        self.all: list[Opened] = []
        self._turn: Opened | None = None

    @contextmanager
    def opened(self, one: Opened) -> Iterator[None]:
        """Open one more batch while the context lasts."""
        self.all.append(one)
        try:
            yield
        finally:
            self.all.remove(one)

    @contextmanager
    def on(self, index: int) -> Iterator[None]:
        """Make the passes within those over one of the batches."""
        if not 0 <= index < len(self.all):
            raise RunError(f"engine.on({index}): {len(self.all)} device batches are open, which count from 0")
        before, self._turn = self._turn, self.all[index]
        try:
            yield
        finally:
            self._turn = before

    @property
    def at_hand(self) -> Opened | None:
        """The batch that ``on`` chose, else the one that was opened last."""
        if self._turn is not None:
            return self._turn
        return self.all[-1] if self.all else None

    @property
    def is_clear(self) -> bool:
        """Whether it is clear which batch the passes of a closure are over."""
        return self._turn is not None or len(self.all) < 2

    def at(self, event: Event) -> list[Opened]:
        """Return the batches that a span concerns: a step all that are open, a pass the one at hand."""
        if event in (Event.STEP, Event.UPDATE):
            return self.all
        return [self.at_hand] if event.in_batch and self.at_hand is not None else []
