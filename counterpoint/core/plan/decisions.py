"""What decided the order of two steps, or of two hooks."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Decision", "Pair"]


class Pair(NamedTuple):
    """Two steps, in running order, that only the list orders, or that do not run in the order of the list.

    ``outcome`` is ``moved`` (the list had the opposite order), ``as listed`` (only the list decides), or ``overruled``
    (a weaker rule asks for the opposite order, and stronger rules about other pairs exclude it).
    """

    first: str
    second: str
    outcome: str
    rule: str
    reason: str


class Decision(NamedTuple):
    """Two steps of one moment that do not commute, by name, and the strongest rule between them.

    ``moment`` is the event and the phase of two hooks, empty for two steps of a batch. ``listed`` says that no rule
    orders the two, and the list does.
    """

    moment: tuple[str, ...]
    names: frozenset[str]
    rule: str
    reason: str
    listed: bool
