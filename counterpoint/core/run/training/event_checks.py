"""Check that every span with hooks was entered in the passes: no hook may be dropped silently."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from torch import Tensor

from counterpoint.core.declare.events import PASSES, Event
from counterpoint.core.errors import EngineRequiredError, RunError
from counterpoint.core.run.training.hooks import Handlers
from counterpoint.core.run.training.open_batches import OpenedBatches

__all__ = ["Fired"]


class Fired:
    """The spans of passes that were entered, by the number of their batch.

    Passes at which some method acts are ``watched``, with the names of these methods.
    """

    def __init__(self, handlers: Handlers, opened: OpenedBatches) -> None:
        self._opened = opened
        self.watched = {event: names for event in PASSES if (names := handlers.names(event))}
        self._fired: set[tuple[Event, int]] = set()
        self._running = False

    def note(self, event: Event) -> None:
        """Record that a pass was entered; raises ``RunError`` if it could be over several batches."""
        if self._running and not self._opened.is_clear:
            raise RunError(
                f"{', '.join(self.watched[event])} acts at each {event.value}, and {len(self._opened.all)} device "
                "batches are open: make the passes over each in `with engine.on(index):`"
            )
        at_hand = self._opened.at_hand
        if at_hand is not None:
            self._fired.add((event, at_hand.number))

    def run(self, closure: Callable[[], Tensor]) -> Tensor:
        """Run a closure, and check which spans it entered."""
        self._fired.clear()
        self._running = True
        try:
            loss = closure()
        finally:
            self._running = False
        self.check()
        return loss

    def check(self) -> None:
        """Raise ``EngineRequiredError`` for a method of an open batch whose span was not entered."""
        for (event, watched), opened in product(self.watched.items(), self._opened.all):
            names = [name for name in watched if name in opened.active]
            if names and (event, opened.number) not in self._fired:
                raise EngineRequiredError(
                    f"{', '.join(names)} acts at each {event.value}, and the passes over batch {opened.number} fired "
                    f"none: wrap that part of them in `with engine.{event.value}():`"
                )

    def forget(self, number: int) -> None:
        """Forget a batch that is done."""
        self._fired = {(event, of) for event, of in self._fired if of != number}
