"""Fixes as data: changes to a composition or a config that a program can make.

``apply_changes`` applies them to a composition and ``change_config`` to a config; ``wording`` words them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = [
    "Add",
    "Choose",
    "Decide",
    "Drop",
    "DropWish",
    "Erase",
    "Remedy",
    "Remove",
    "Replace",
    "Set",
    "State",
    "Way",
    "Write",
    "decides",
]


@dataclass(frozen=True)
class Drop:
    """Take a method out of the list; of several that share a name, the last.

    A branch of a choice is named by its path, as ``one_of.mixup``; a choice without branches goes too.
    """

    algorithm: str


@dataclass(frozen=True)
class Set:
    """Give a method other settings; of several that share a name, the last. A branch is named by its path."""

    algorithm: str
    settings: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class DropWish:
    """Take a name out of the ``after`` or ``before`` of a method; ``key`` is one of the two."""

    algorithm: str
    key: str
    name: str


@dataclass(frozen=True)
class State:
    """State other facts to ``compose``.

    ``elsewhere`` is what to change in a config, where the data or the model state these facts.
    """

    facts: Mapping[str, Any] = field(hash=False)
    elsewhere: str = ""


@dataclass(frozen=True)
class Choose:
    """Put a choice among methods in their place; ``choice`` is the name of the method that chooses.

    The choice takes over the wishes of its branches, and wishes that named a branch name the choice.
    """

    algorithms: tuple[str, ...]
    choice: str


@dataclass(frozen=True)
class Add:
    """Put an item at the end of the list: the name of a method, or a mapping with ``name`` and its settings."""

    item: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Replace:
    """Write another item at a position of the list."""

    position: int
    item: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Remove:
    """Take the item at a position out of the list."""

    position: int


@dataclass(frozen=True)
class Write:
    """Write a value into a config; ``path`` are the keys and positions that lead to it."""

    path: tuple[int | str, ...]
    value: Any = field(hash=False)


@dataclass(frozen=True)
class Erase:
    """Take a key, or an item of a list, out of a config; ``path`` are the keys and positions that lead to it."""

    path: tuple[int | str, ...]


@dataclass(frozen=True)
class Decide:
    """What only a person can decide: no program can make this change."""

    question: str


Remedy: TypeAlias = Drop | Set | DropWish | State | Choose | Add | Replace | Remove | Write | Erase | Decide
Way: TypeAlias = tuple[Remedy, ...]
"""One fix of a fault: changes to be made together."""


def decides(way: Way) -> bool:
    """Return whether a way leaves something to a person.

    >>> decides((Drop("mixup"), Decide("use another loss")))
    True
    """
    return any(isinstance(remedy, Decide) for remedy in way)
