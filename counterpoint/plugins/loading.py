"""Importing one entry point through stevedore."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any, NoReturn

from stevedore.extension import ExtensionManager
from stevedore.named import NamedExtensionManager

from counterpoint.plugins.guard import guarded

__all__ = ["load"]


class _OneEntryPoint(NamedExtensionManager[Any]):
    """A manager of the one entry point it is given.

    stevedore keeps its list of entry points in a cache under the user's cache folder. The cache does not record which
    package an entry point is from, and is stale for about a minute after a change.
    """

    def __init__(self, point: EntryPoint) -> None:
        self._point = point
        super().__init__(
            point.group,
            [point.name],
            on_load_failure_callback=_raise,
            on_missing_entrypoints_callback=None,
        )

    def list_entry_points(self) -> list[EntryPoint]:
        """Return the one entry point."""
        return [self._point]


def _raise(manager: ExtensionManager[Any], point: EntryPoint, error: BaseException) -> NoReturn:
    raise error


def load(point: EntryPoint) -> Any:
    """Import the module of an entry point and return its object; raises whatever importing it raises."""
    with guarded():
        return _OneEntryPoint(point)[point.name].plugin
