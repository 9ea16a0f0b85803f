"""The moments and spans of a training loop."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from typing import NoReturn, Self

from counterpoint.core.arguments import written
from counterpoint.core.errors import ArgumentError

__all__ = ["PASSES", "Event"]


class Event(StrEnum):
    """A span of the training loop, at whose start and end methods may act.

    This is the whole loop, and the one place where it is drawn::

        SETUP                               the model is there, the optimizer is not: model surgery
        FIT
        │   EPOCH
        │   │   BATCH                       a device batch: the plan's batch steps edit inputs and targets first
        │   │   │   STEP                    gradients are zeroed, then the closure runs, once or more
        │   │   │   │   FORWARD             ┐
        │   │   │   │   LOSS                ├ the closure: once for each microbatch
        │   │   │   │   BACKWARD            ┘
        │   │   │   │   UPDATE              gradients are whole: the optimizer changes the parameters
        │   EVALUATION                      on the evaluation weights, on unedited batches

    Each is a span: a hook runs ``before`` it, ``after`` it, ``around`` it, or (STEP alone) in its place. ``after`` runs
    only when the span ended without an exception; ``around`` always learns of the outcome.

    A step may take several device batches: their spans are then open around it together, one in the other.
    """

    SETUP = "setup"
    FIT = "fit"
    EPOCH = "epoch", "fit"
    BATCH = "batch", "epoch"
    STEP = "step", "batch"
    FORWARD = "forward", "step"
    LOSS = "loss", "step"
    BACKWARD = "backward", "step"
    UPDATE = "update", "step"
    EVALUATION = "evaluation", "fit"

    within: str
    """The span around it, by name; empty for the outermost ones."""

    def __new__(cls, name: str, within: str = "") -> Self:
        """Make an event by its name and that of the span around it."""
        event = str.__new__(cls, name)
        event._value_ = name
        event.within = within
        return event

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        known = ", ".join(event.value for event in cls)
        raise ArgumentError(f"there is no event {written(value)}; events are {known}")

    @cached_property
    def in_batch(self) -> bool:
        """Whether the span lies within a batch: ``start``, ``end``, ``every`` and ``p`` then switch its hooks.

        >>> Event.UPDATE.in_batch, Event.EVALUATION.in_batch
        (True, False)
        """
        return self is Event.BATCH or (self.within != "" and Event(self.within).in_batch)


PASSES = (Event.FORWARD, Event.LOSS, Event.BACKWARD)
"""The spans of the closure, which run once for each microbatch."""
