"""Fixes as data: changes to a composition that a program can make; ``mend`` applies them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Choose", "Drop", "Remedy", "Set", "State"]


@dataclass(frozen=True)
class Drop:
    """Take a method out of the list; of several that share a name, the last."""

    algorithm: str


@dataclass(frozen=True)
class Set:
    """Give a method other settings; of several that share a name, the last."""

    algorithm: str
    settings: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class State:
    """State other facts to ``compose``."""

    facts: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Choose:
    """Put a choice among methods in their place; ``choice`` is the name of the method that chooses."""

    algorithms: tuple[str, ...]
    choice: str


Remedy = Drop | Set | State | Choose
