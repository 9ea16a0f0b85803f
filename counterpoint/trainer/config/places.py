"""Where in a config an error is: its place, and the class whose setting it concerns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from counterpoint.trainer.config.components import ROLES

__all__ = ["Owner", "Place", "owner_of", "place_of"]

Place = tuple[int | str, ...]
"""The keys and positions that lead to a value of a config."""


class Owner(NamedTuple):
    """The class that has a faulty setting, where in its place the setting's name stands, and the class's own name."""

    settings: type[BaseModel]
    depth: int
    name: str


def place_of(details: ErrorDetails, tree: Mapping[str, Any]) -> Place:
    """Return the place of an error, without what pydantic adds to it for each member of a union."""
    if details["type"] == "missing":
        return (*_within(details["loc"][:-1], tree), details["loc"][-1])
    return _within(details["loc"], tree)


def owner_of(place: Place, config: type[BaseModel], tree: Mapping[str, Any]) -> Owner:
    """Return the class whose setting stands at a place: a component, or the config itself."""
    held: Any = tree
    owner = Owner(config, 0, "")
    for position, part in enumerate(place[:-1], start=1):
        held = held[part]
        name = held.get("name") if isinstance(held, Mapping) else held
        if isinstance(name, str) and name in ROLES[str(place[0])].names():
            owner = Owner(ROLES[str(place[0])].load(name), position, name)
    return owner


def _within(place: Place, tree: Mapping[str, Any]) -> Place:
    held: Any = tree
    for depth, part in enumerate(place):
        if not _holds(held, part):
            return place[:depth]
        held = held[part]
    return place


def _holds(held: object, part: int | str) -> bool:
    if isinstance(held, Mapping):
        return part in held
    return isinstance(held, list) and isinstance(part, int) and part < len(held)
