"""When a method acts: its window, its rhythm and its coin, in device batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

from counterpoint.core.declare.durations import Duration

__all__ = ["Clock", "Schedule"]


@dataclass(frozen=True)
class Clock:
    """What durations are counted in: batches in an epoch and in the whole run, where they are stated."""

    steps_per_epoch: int | None = None
    total: int | None = None
    unstated: str = "max_duration"
    """What must be stated for ``total`` to be known."""

    def batches(self, duration: Duration) -> int:
        """Return a duration in device batches; raises ``LookupError`` naming what would have to be stated."""
        count = duration.batches(steps_per_epoch=self.steps_per_epoch, total=self.total)
        if count is None:
            raise LookupError("steps_per_epoch" if duration.unit == "ep" else self.unstated)
        return count


@dataclass(frozen=True)
class Schedule:
    """When a method may act: from ``start`` to ``end`` (exclusive), on each ``every``-th batch, by a coin ``p``."""

    start: int = 0
    end: int | None = None
    every: int = 1
    p: float = 1.0

    def covers(self, step: int) -> bool:
        """Whether the method may act on this device batch, its coin aside."""
        return self.start <= step and (self.end is None or step < self.end) and (step - self.start) % self.every == 0

    @property
    def unconditional(self) -> bool:
        """Whether the method acts on every batch of the run."""
        return self == Schedule()

    def meets(self, other: Schedule) -> bool:
        """Whether a batch exists on which both may act.

        >>> Schedule(end=10).meets(Schedule(start=10)), Schedule(every=2).meets(Schedule(start=1, every=2))
        (False, False)
        """
        return self.meeting(other) is not None

    def meeting(self, other: Schedule) -> Schedule | None:
        """Return the schedule of the batches on which both may act, without a coin; ``None`` if there is none.

        By the Chinese remainder theorem: two rhythms meet if their starts are equal modulo the greatest common divisor
        of the two, and from then on at their least common multiple.

        >>> Schedule(every=4).meeting(Schedule(start=2, every=6))
        Schedule(start=8, end=None, every=12, p=1.0)
        """
        divisor = math.gcd(self.every, other.every)
        apart = other.start - self.start
        if apart % divisor:
            return None
        period = other.every // divisor
        turns = apart // divisor * pow(self.every // divisor, -1, period) % period
        every, late = self.every * period, max(self.start, other.start)
        first = late + (self.start + turns * self.every - late) % every
        end = min((end for end in (self.end, other.end) if end is not None), default=None)
        return None if end is not None and first >= end else Schedule(first, end, every)

    def __str__(self) -> str:
        parts = [f"from {self.start}ba" if self.start else "", f"until {self.end}ba" if self.end is not None else ""]
        parts += [f"every {self.every}ba" if self.every > 1 else "", f"p={self.p:g}" if self.p < 1 else ""]
        return ", ".join(part for part in parts if part)
