"""What containers hold: mappings, tuples, lists and dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["contents"]


def contents(container: object) -> dict[Any, Any] | None:
    """Return what a container holds by its keys, fields or positions; ``None`` for anything else.

    A named tuple and a dataclass have fields, other tuples and lists positions.

    >>> contents((4, "a")), contents({"x": 1}), contents("text")
    ({0: 4, 1: 'a'}, {'x': 1}, None)
    """
    if isinstance(container, Mapping):
        return dict(container)
    if isinstance(container, tuple | list):
        names = getattr(container, "_fields", None) if isinstance(container, tuple) else None
        return dict(zip(names or range(len(container)), container, strict=True))
    if is_dataclass(container) and not isinstance(container, type):
        return {field.name: getattr(container, field.name) for field in fields(container)}
    return None
