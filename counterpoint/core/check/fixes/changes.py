"""Apply the remedies of a fault to a composition."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.remedies import (
    Add,
    Choose,
    Decide,
    Drop,
    DropWish,
    Erase,
    Remedy,
    Remove,
    Replace,
    Set,
    State,
    Write,
)

__all__ = ["apply_changes", "chosen", "free_name", "identity_of", "wished"]

WISHES = ("after", "before")


def apply_changes(
    algorithms: Sequence[object], facts: Mapping[str, Any], remedies: Sequence[Remedy]
) -> tuple[list[object], dict[str, Any]]:
    """Apply remedies to a list of algorithms and to the facts passed to ``compose``; return new ones.

    Items of the list are instances, names, or mappings with ``name``. Raises ``LookupError`` if a remedy names a method
    that is not in the list, or leaves a decision to a person.

    >>> from counterpoint.algorithms import CutMix, MixUp
    >>> from counterpoint.core.remedies import Choose
    >>> apply_changes([MixUp(), CutMix()], {}, [Choose(("mixup", "cutmix"), "one_of")])[0]
    [{'name': 'one_of', 'algorithms': [{'name': 'mixup'}, {'name': 'cutmix'}]}]
    """
    listed = list(algorithms)
    stated = dict(facts)
    for remedy in remedies:
        if isinstance(remedy, State):
            stated |= remedy.facts
        elif isinstance(remedy, Decide):
            raise LookupError(f"this is for a person to decide: {remedy.question}")
        elif isinstance(remedy, Write | Erase):
            raise LookupError(f"{remedy} is a change of a config, not of a list of algorithms")
        else:
            _change(listed, remedy)
    return listed, stated


def _change(listed: list[object], remedy: Add | Replace | Remove | Choose | Drop | Set | DropWish) -> None:
    if isinstance(remedy, Add):
        listed.append(dict(remedy.item))
    elif isinstance(remedy, Replace):
        listed[remedy.position] = dict(remedy.item)
    elif isinstance(remedy, Remove):
        del listed[remedy.position]
    elif isinstance(remedy, Choose):
        _choose(listed, remedy)
    else:
        name, _, path = remedy.algorithm.partition(".")
        place = _last(listed, name, path.partition(".")[0])
        changed = _within(listed[place], path, remedy)
        listed[place : place + 1] = [] if changed is None else [changed]


def _choose(listed: list[object], remedy: Choose) -> None:
    item = chosen(listed, remedy)
    for name in remedy.algorithms:
        del listed[_last(listed, name)]
    called = str(item.get("id", item["name"]))
    for place, other in enumerate(listed):
        renamed = {
            key: tuple(dict.fromkeys(called if name in remedy.algorithms else name for name in names))
            for key in WISHES
            if set(names := wished(other, key)) & set(remedy.algorithms)
        }
        if renamed:
            listed[place] = _with(other, renamed)
    listed.append(item)


def chosen(listed: Sequence[object], remedy: Choose) -> dict[str, Any]:
    """Return the choice among methods that takes their place in a list: a mapping with all that it must say."""
    branches = [listed[_last(listed, name)] for name in remedy.algorithms]
    rest = [identity_of(item) for item in listed]
    for name in remedy.algorithms:
        rest.remove(name)
    called = free_name(remedy.choice, rest)
    wishes = {
        key: list(
            dict.fromkeys(name for item in branches for name in wished(item, key) if name not in remedy.algorithms)
        )
        for key in WISHES
    }
    identity = {} if called == remedy.choice else {"id": called}
    plain = [_plain(_with(item, {key: () for key in WISHES if wished(item, key)})) for item in branches]
    return {"name": remedy.choice, **identity, "algorithms": plain} | {
        key: wish for key, wish in wishes.items() if wish
    }


def free_name(wanted: str, taken: Iterable[str | None]) -> str:
    """Return a name that is not taken: the wanted one, or that one with a number.

    >>> free_name("mixup", ["mixup", "mixup_2"])
    'mixup_3'
    """
    names = set(taken)
    numbered = (f"{wanted}_{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in names)


def identity_of(item: object) -> str | None:
    """Return the name by which an item of a list goes; ``None`` for what has none."""
    if isinstance(item, Algorithm):
        return item.identity
    name = (item.get("id") or item.get("name")) if isinstance(item, Mapping) else item
    return name if isinstance(name, str) else None


def _within(item: object, path: str, remedy: Drop | Set | DropWish) -> object | None:
    """Return an item with a remedy applied to it, or to the branch of it that the path names; ``None`` if it goes."""
    if path:
        return _with_branch(item, path, remedy)
    if isinstance(remedy, Drop):
        return None
    if isinstance(remedy, Set):
        return _with(item, remedy.settings)
    return _with(item, {remedy.key: tuple(name for name in wished(item, remedy.key) if name != remedy.name)})


def _with_branch(item: object, path: str, remedy: Drop | Set | DropWish) -> object | None:
    name, _, rest = path.partition(".")
    settings = _open(item)
    key = next((key for key, value in settings.items() if name in _identities(value)), None)
    if key is None:
        raise LookupError(f"no branch of {identity_of(item)!r} goes by the name {name!r}")
    branches = list(settings[key])
    place = _last(branches, name, rest.partition(".")[0])
    changed = _within(branches[place], rest, remedy)
    if changed is not None:
        branches[place] = changed
        return settings | {key: branches}
    beside = {other: list(value) for other, value in settings.items() if _numbers(value, len(branches))}
    for parts in (branches, *beside.values()):  # what goes with each branch, as its weight
        del parts[place]
    return settings | beside | {key: branches} if branches else None


def _open(item: object) -> dict[str, Any]:
    """Return a choice as a mapping; its branches stay instances where it holds instances."""
    if isinstance(item, Mapping):
        return dict(item)
    if not isinstance(item, Algorithm):
        return {}
    return item.component() | {key: list(value) for key, value in dict(item).items() if _holds_algorithms(value)}


def _holds_algorithms(value: object) -> bool:
    return isinstance(value, tuple | list) and bool(value) and all(isinstance(part, Algorithm) for part in value)


def _identities(value: object) -> list[str | None]:
    return [identity_of(part) for part in value] if isinstance(value, list | tuple) else []


def _numbers(value: object, count: int) -> bool:
    if not isinstance(value, list | tuple) or len(value) != count:
        return False
    return all(isinstance(part, int | float) for part in value)


def _with(item: object, settings: Mapping[str, Any]) -> object:
    if isinstance(item, Algorithm):
        return type(item).model_validate(dict(item) | dict(settings))
    mapping = dict(item) if isinstance(item, Mapping) else {"name": item}
    mapping |= {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    return {key: value for key, value in mapping.items() if not (key in WISHES and not value)}


def wished(item: object, key: str) -> tuple[str, ...]:
    """Return the names in ``after`` or ``before`` of an item of a list."""
    given: Any = item.get(key, ()) if isinstance(item, Mapping) else getattr(item, key, ())
    return (given,) if isinstance(given, str) else tuple(given)


def _plain(item: object) -> dict[str, Any]:
    if isinstance(item, Algorithm):
        return item.component()
    return dict(item) if isinstance(item, Mapping) else {"name": item}


def _last(listed: Sequence[object], identity: str, branch: str = "") -> int:
    """Return the last position of a name in a list; with ``branch``, of a choice that has this branch."""
    places = [place for place, item in enumerate(listed) if identity_of(item) == identity]
    if branch:
        places = [p for p in places if any(branch in _identities(part) for part in _open(listed[p]).values())]
    if not places:
        raise LookupError(f"no method of the list goes by the name {identity!r}")
    return places[-1]
