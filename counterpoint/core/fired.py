"""Whether the passes fired every span at which a method acts: nothing may be dropped silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

from torch import Tensor

from counterpoint.core.effects import Phase
from counterpoint.core.errors import EngineRequiredError, RunError
from counterpoint.core.events import Event
from counterpoint.core.handlers import Handler
from counterpoint.core.opened import OpenedBatches

__all__ = ["Fired"]

_PASSES = (Event.FORWARD, Event.LOSS, Event.BACKWARD)


class Fired:
    """The spans of passes that were fired, by the number of the batch that they were over."""

    def __init__(self, handlers: Mapping[tuple[Event, Phase], tuple[Handler, ...]], opened: OpenedBatches) -> None:
        self._opened = opened
        found = {event: [h for phase in Phase for h in handlers.get((event, phase), ())] for event in _PASSES}
        self._names = {event: dict.fromkeys(h.step.name for h in acting) for event, acting in found.items()}
        self._fired: set[tuple[Event, int]] = set()
        self._running = False

    def note(self, event: Event) -> None:
        """Note that a span was fired; raises ``RunError`` for a closure's pass that could be over several."""
        if event not in _PASSES:
            return
        if self._running and self._names[event] and not self._opened.is_clear:
            raise RunError(
                f"{', '.join(self._names[event])} acts at each {event.value}, and {len(self._opened.all)} device "
                "batches are open: make the passes over each in `with engine.on(index):`"
            )
        self._fired |= {(event, opened.number) for opened in self._opened.at(event)}

    def run(self, closure: Callable[[], Tensor]) -> Tensor:
        """Run a closure, and check what it fired."""
        self._fired.clear()
        self._running = True
        try:
            loss = closure()
        finally:
            self._running = False
        self.check()
        return loss

    def check(self) -> None:
        """Raise ``EngineRequiredError`` for a method of an open batch at whose span nothing was fired."""
        for event, opened in product(_PASSES, self._opened.all):
            names = [name for name in self._names[event] if name in opened.active]
            if names and (event, opened.number) not in self._fired:
                raise EngineRequiredError(
                    f"{', '.join(names)} acts at each {event.value}, and the passes over batch {opened.number} fired "
                    f"none: wrap that part of them in `with engine.{event.value}():`"
                )

    def forget(self, number: int) -> None:
        """Forget a batch that is done."""
        self._fired = {(event, of) for event, of in self._fired if of != number}
