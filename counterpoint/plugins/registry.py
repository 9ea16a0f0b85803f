"""The registry: one for each entry-point group, metadata only until a name is used."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from counterpoint.core.errors import BrokenPluginError, DuplicateNameError, PluginError, UnknownNameError, nearest

if TYPE_CHECKING:
    from counterpoint.core.declare.algorithm import Algorithm

__all__ = ["ALGORITHMS", "DATASETS", "LOSSES", "MODELS", "REGISTRIES", "Entry", "Registry", "check", "entries"]

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, order=True)
class Entry:
    """A registered name in the metadata of an installed package; nothing is imported for it.

    ``group`` is the entry-point group, ``name`` the registered name, ``package`` and ``version`` the distribution that
    brings it, ``value`` where it is to be found (``module:object``).

    >>> Entry("counterpoint.algorithms", "mixup", "counterpoint", "0.1.0", "counterpoint.algorithms.mixup:MixUp").name
    'mixup'
    """

    group: str
    name: str
    package: str
    version: str
    value: str

    def __str__(self) -> str:
        return f"{self.name!r} of {self.package} {self.version} ({self.value})"


class Registry(Generic[Loaded]):
    """The names of one entry-point group.

    ``group`` is the group, ``noun`` the word for one entry in errors. ``mistake(entry, loaded)`` says what is wrong
    with a loaded object and how to fix it, or returns ``None`` if nothing is. The installed packages are read at each
    call, so that a package installed in a running session is found; what ``loader`` returns reads them once.

    >>> Registry("counterpoint.algorithms", "algorithm").load("mixup")
    <class 'counterpoint.algorithms.mixup.MixUp'>
    """

    def __init__(
        self, group: str, noun: str, mistake: Callable[[Entry, object], str | None] = lambda entry, loaded: None
    ) -> None:
        self.group = group
        self.noun = noun
        self._mistake = mistake

    def entries(self) -> tuple[Entry, ...]:
        """Return everything registered in the group, sorted by name; a name that two packages claim appears twice."""
        return tuple(sorted(_entry(point) for point in self._points()))

    def names(self) -> tuple[str, ...]:
        """Return every registered name once, sorted."""
        return tuple(sorted({point.name for point in self._points()}))

    def load(self, name: str) -> Loaded:
        """Import and return what is registered under the name; nothing else is imported.

        Raises ``UnknownNameError`` with the nearest names, ``DuplicateNameError`` with both packages, and
        ``BrokenPluginError`` if importing fails in any way, a call of ``sys.exit`` included, or if the object is not
        what the group expects.
        """
        return self.loader()(name)

    def loader(self) -> Callable[[str], Loaded]:
        """Return a ``load`` for the names of one list: it reads the installed packages at the first name alone."""
        points = functools.cache(self._points)
        return lambda name: self._load(self._only(name, points()))

    def _load(self, point: importlib.metadata.EntryPoint) -> Loaded:
        entry = _entry(point)
        loaded: Loaded = _import(point, entry, self.noun)
        mistake = self._mistake(entry, loaded)
        if mistake is not None:
            raise BrokenPluginError(f"the {self.noun} {entry} cannot be used: {mistake}")
        return loaded

    def _points(self) -> list[importlib.metadata.EntryPoint]:
        return list(importlib.metadata.entry_points(group=self.group))

    def _only(self, name: str, points: Sequence[importlib.metadata.EntryPoint]) -> importlib.metadata.EntryPoint:
        found = [point for point in points if point.name == name]
        if not found:
            known = {point.name for point in points}
            raise UnknownNameError(f"no {self.noun} is registered under the name {name!r}{nearest(name, known)}")
        if len(found) > 1:
            rivals = sorted(map(_entry, found))
            places = " and ".join(f"{entry.package} {entry.version} ({entry.value})" for entry in rivals)
            raise DuplicateNameError(
                f"the {self.noun} name {name!r} is registered twice, by {places}; uninstall one of them, "
                f"or rename its entry point"
            )
        return found[0]


def _entry(point: importlib.metadata.EntryPoint) -> Entry:
    if point.dist is None:
        raise BrokenPluginError(f"the entry point {point.name!r} ({point.value}) belongs to no installed package")
    metadata = point.dist.metadata
    return Entry(point.group, point.name, metadata["Name"], metadata["Version"], point.value)


def _import(point: importlib.metadata.EntryPoint, entry: Entry, noun: str) -> Any:
    """Import one entry point, whatever its module does.

    Importing another package can raise anything; every error becomes a ``BrokenPluginError``. Only a
    ``KeyboardInterrupt`` of the user is passed on.
    """
    from counterpoint.plugins.loading import load  # listing does without stevedore

    if point.pattern.match(point.value) is None:
        raise BrokenPluginError(f"the {noun} {entry} cannot be loaded: an entry point is written 'module:object'")
    try:
        return load(point)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise BrokenPluginError(
            f"the {noun} {entry} cannot be loaded: {reason}; fix, upgrade or uninstall {entry.package}"
        ) from error


def _mistake_of_algorithm(entry: Entry, loaded: object) -> str | None:
    from counterpoint.core.declare.algorithm import Algorithm  # listing names does without torch

    if not (isinstance(loaded, type) and issubclass(loaded, Algorithm)):
        return f"it is {loaded!r}, no subclass of counterpoint.Algorithm; let the entry point name such a class"
    if loaded.name != entry.name:
        return (
            f"the class calls itself {loaded.name!r}; write class {loaded.__name__}(Algorithm, name={entry.name!r}), "
            f"or register it under {loaded.name!r}"
        )
    return None


@runtime_checkable
class _Builder(Protocol):
    def build(self, *args: Any) -> Any: ...


def _mistake_of_settings(entry: Entry, loaded: object) -> str | None:
    from pydantic import BaseModel

    if not (isinstance(loaded, type) and issubclass(loaded, BaseModel) and issubclass(loaded, _Builder)):
        return f"it is {loaded!r}; let the entry point name a pydantic model of its settings with a method 'build'"
    return None


ALGORITHMS: Registry[type[Algorithm[Any]]] = Registry("counterpoint.algorithms", "algorithm", _mistake_of_algorithm)
LOSSES: Registry[Any] = Registry("counterpoint.losses", "loss", _mistake_of_settings)
MODELS: Registry[Any] = Registry("counterpoint.models", "model", _mistake_of_settings)
DATASETS: Registry[Any] = Registry("counterpoint.datasets", "data set", _mistake_of_settings)
REGISTRIES: tuple[Registry[Any], ...] = (ALGORITHMS, LOSSES, MODELS, DATASETS)


def entries() -> tuple[Entry, ...]:
    """Return everything registered, group by group, without importing any of it.

    >>> [entry.group for entry in entries() if entry.name == "mixup"]
    ['counterpoint.algorithms']
    """
    return tuple(entry for registry in REGISTRIES for entry in registry.entries())


def check(entry: Entry) -> PluginError | None:
    """Import what the entry names and return the error that using it would raise, or ``None`` if it is sound.

    >>> check(Entry("counterpoint.models", "mlp", "counterpoint", "0.1.0", "counterpoint.trainer.models:MLP"))
    """
    (registry,) = [registry for registry in REGISTRIES if registry.group == entry.group]
    try:
        registry.load(entry.name)
    except PluginError as error:
        return error
    return None
