"""Importing one entry point through stevedore."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

from stevedore.driver import DriverManager

from counterpoint.plugins.guard import guarded

__all__ = ["load"]


class _Driver(DriverManager[Any]):
    """The driver of the one entry point it is given.

    stevedore's own list is read from a file under the user's cache folder. It does not record which package an entry
    point is from, and it is stale for about a minute after a change.
    """

    def __init__(self, point: EntryPoint) -> None:
        self._point = point
        super().__init__(point.group, point.name)

    def list_entry_points(self) -> list[EntryPoint]:
        """Return the one entry point."""
        return [self._point]


def load(point: EntryPoint) -> Any:
    """Import the module of an entry point and return its object; raises whatever importing it raises."""
    with guarded():
        return _Driver(point).driver
