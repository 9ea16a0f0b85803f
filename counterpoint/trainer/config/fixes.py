"""Fixes of a config as data: those of each error, tried on the config before they are offered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from counterpoint.core.check.candidates import values_for
from counterpoint.core.check.fixes.changes import apply_changes
from counterpoint.core.check.fixes.wording import CONFIG_KEYS
from counterpoint.core.errors import close_to
from counterpoint.core.remedies import Erase, Remedy, Way, Write
from counterpoint.trainer.config.components import BROKEN_PLUGIN, DEFAULTS, NO_COMPONENT, ROLES, UNKNOWN_NAME
from counterpoint.trainer.config.places import Place, owner_of, place_of

__all__ = ["Trial", "change_config"]

_TRIES, _DEPTH = 400, 4
_UNKNOWN_KEY = ("extra_forbidden", "invalid_key")


def change_config(tree: Mapping[str, Any], way: Sequence[Remedy]) -> dict[str, Any]:
    """Apply the remedies of a fault to a config, as plain data; return a new one.

    Raises ``LookupError`` if a remedy names a place or a method that the config does not have, or leaves a decision to
    a person.

    >>> change_config({"seed": -1, "optimizer": "sgd"}, [Write(("seed",), 0), Write(("optimizer", "lr"), 0.5)])
    {'seed': 0, 'optimizer': {'name': 'sgd', 'lr': 0.5}}
    """
    changed = deepcopy(dict(tree))
    for remedy in way:
        if isinstance(remedy, Write | Erase):
            _put(changed, remedy)
        else:
            listed, facts = apply_changes(changed.get("algorithms", []), {}, [remedy])
            changed |= {"algorithms": listed} if "algorithms" in changed or listed else {}
            _state(changed, facts)
    return changed


def _put(changed: dict[str, Any], remedy: Write | Erase) -> None:
    held: Any = changed
    *parents, last = remedy.path
    for part in parents:
        if isinstance(held[part], str):  # a bare name, which becomes a mapping that settings can join
            held[part] = {"name": held[part]}
        held = held[part]
    if isinstance(remedy, Write):
        held[last] = deepcopy(remedy.value)
    else:
        del held[last]


def _state(changed: dict[str, Any], facts: Mapping[str, Any]) -> None:
    """Write facts of a composition where a config states them; the batch size is a setting of the data."""
    for fact, value in facts.items():
        key = CONFIG_KEYS[fact]
        path = ("data", key) if fact == "batch_size" else (key,)
        if value is not None:
            _put(changed, Write(path, value))
        elif key in changed:
            _put(changed, Erase(path))


class Trial:
    """The errors of one config, and those after a change of it."""

    def __init__(self, config: type[BaseModel], tree: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> None:
        self._config, self._tree = config, tree
        self._before = Counter(map(_identity, errors))
        self._left = _TRIES

    def fix(self, details: ErrorDetails) -> Way | None:
        """Return the first change that removes an error and causes no other; ``None`` if no change does."""
        for way in _candidates(details, self._config, self._tree):
            found = self._leads_on(details, way, _DEPTH)
            if found is not None:
                return found
        return None

    def _leads_on(self, details: ErrorDetails, way: Way, depth: int) -> Way | None:
        """Return a way, or a longer one with the fixes of the errors that it uncovers."""
        after = self._after(way)
        if after is None:
            return None
        changed, errors = after
        fixed = self._before - Counter([_identity(details)])
        brought = [error for error in errors if _identity(error) not in fixed]
        if not Counter(map(_identity, errors)) - fixed:
            return way
        if not depth or not brought or any(_key(error) == _key(details) for error in brought):
            return None
        for more in _candidates(brought[0], self._config, changed):
            found = self._leads_on(details, (*way, *more), depth - 1)
            if found is not None:
                return found
        return None

    def _after(self, way: Way) -> tuple[dict[str, Any], list[ErrorDetails]] | None:
        if not self._left:
            return None
        self._left -= 1
        try:
            changed = change_config(self._tree, way)
            self._config.model_validate(changed)
        except (LookupError, TypeError):  # the change cannot be made here
            return None
        except ValidationError as error:
            return changed, error.errors(include_url=False)
        return changed, []


def _identity(details: ErrorDetails) -> tuple[str, str, str, str]:
    """Return what stays of an error where the items of a list move up."""
    return details["type"], details["msg"], _key(details), repr(details["input"])[:100]


def _key(details: ErrorDetails) -> str:
    """Return the keys that lead to an error, without the positions in lists."""
    return ".".join(str(part) for part in details["loc"] if not isinstance(part, int))


def _candidates(details: ErrorDetails, config: type[BaseModel], tree: Mapping[str, Any]) -> Iterator[Way]:
    """Yield the changes that may remove an error, the one that keeps most of the config first."""
    place = place_of(details, tree)
    if not place:
        return
    if details["type"] in _UNKNOWN_KEY:
        yield from _renamed(place, config, tree)
        yield (Erase(place),)
    elif details["type"] in (UNKNOWN_NAME, BROKEN_PLUGIN, NO_COMPONENT):
        yield from _named(place, details["input"])
    else:
        yield from _allowed(place, details, config, tree)
    yield from _without(place, tree)


def _renamed(place: Place, config: type[BaseModel], tree: Mapping[str, Any]) -> Iterator[Way]:
    owner = owner_of(place, config, tree)
    held = _at(tree, place[:-1])
    for close in close_to(str(place[-1]), [*owner.settings.model_fields, "name"]):
        if close not in held:
            yield Write((*place[:-1], close), held[place[-1]]), Erase(place)


def _named(place: Place, given: object) -> Iterator[Way]:
    name = given.get("name") if isinstance(given, Mapping) else given
    at = (*place, "name") if isinstance(given, Mapping) else place
    for close in close_to(name, ROLES[str(place[0])].names()) if isinstance(name, str) else ():
        yield (Write(at, close),)


def _allowed(place: Place, details: ErrorDetails, config: type[BaseModel], tree: Mapping[str, Any]) -> Iterator[Way]:
    owner = owner_of(place, config, tree)
    if len(place) > owner.depth and str(place[owner.depth]) in owner.settings.model_fields:
        whole = place[: owner.depth + 1]
        is_missing = details["type"] == "missing"
        given = None if is_missing else _at(tree, whole)
        if _is_packages(whole):
            return
        if is_missing:
            yield from _misspelt(whole, _at(tree, whole[:-1]), owner.settings)
        for value in values_for(owner.settings, str(whole[-1]), given):
            yield (Write(whole, value),)
        yield (Erase(whole),)
    elif isinstance(held := _at(tree, place), Mapping):  # settings that do not fit each other
        yield from ((Erase((*place, key)),) for key in held if key != "name")


def _misspelt(place: Place, held: Any, settings: type[BaseModel]) -> Iterator[Way]:
    """Yield the renaming of each unknown key beside a missing one that may be a typo of it."""
    for key in held if isinstance(held, Mapping) else ():
        if key not in settings.model_fields and place[-1] in close_to(str(key), settings.model_fields):
            yield Write(place, held[key]), Erase((*place[:-1], key))


def _is_packages(place: Place) -> bool:
    """Whether a place is that of the packages to install, which a person must do."""
    return place == ("plugins",)


def _without(place: Place, tree: Mapping[str, Any]) -> Iterator[Way]:
    """Yield the removal of each item of a list that holds a place, the innermost first; a default takes over else."""
    for depth in range(len(place), 1, -1):
        if place[0] == "algorithms" and isinstance(place[depth - 1], int):
            yield (Erase(place[:depth]),)
    if place[0] in DEFAULTS and place[0] in tree:
        yield (Erase(place[:1]),)
    if place == ("algorithms",):
        yield (Erase(place),)


def _at(tree: Mapping[str, Any], place: Place) -> Any:
    held: Any = tree
    for part in place:
        held = held[part]
    return held
