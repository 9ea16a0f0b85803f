"""When a method acts: its window, its rhythm and its coin, in device batches."""

from __future__ import annotations

from dataclasses import dataclass

from counterpoint.core.durations import Duration

__all__ = ["Clock", "Schedule"]


@dataclass(frozen=True)
class Clock:
    """What durations are counted in: batches in an epoch and in the whole run, where they are stated."""

    steps_per_epoch: int | None = None
    total: int | None = None

    def batches(self, duration: Duration) -> int:
        """Return a duration in device batches; raises ``LookupError`` naming what would have to be stated."""
        count = duration.batches(steps_per_epoch=self.steps_per_epoch, total=self.total)
        if count is None:
            raise LookupError("steps_per_epoch" if duration.unit == "ep" else "max_duration")
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
        first = max(self.start, other.start)
        ends = [end for end in (self.end, other.end) if end is not None]
        last = min(min(ends, default=first + self.every * other.every), first + self.every * other.every)
        return any(self.covers(step) and other.covers(step) for step in range(first, last))

    def __str__(self) -> str:
        parts = [f"from {self.start}ba" if self.start else "", f"until {self.end}ba" if self.end is not None else ""]
        parts += [f"every {self.every}ba" if self.every > 1 else "", f"p={self.p:g}" if self.p < 1 else ""]
        return ", ".join(part for part in parts if part)
