"""Registered names for fixes: methods by the kinds or slots that they provide, and losses by what they accept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.kinds import DENSE, Claim, Kind

__all__ = ["Catalog"]


@dataclass(frozen=True)
class Catalog:
    """Registered methods and losses that a fix may name; ``choice`` is the name of the method that chooses.

    ``names`` returns the names of all methods, ``methods`` their classes, ``losses`` the kinds of target that each
    loss accepts. They are called once a fault asks for them.
    """

    choice: str = ""
    names: Callable[[], Sequence[str]] = tuple
    methods: Callable[[], Iterable[type[Algorithm[Any]]]] = tuple
    losses: Callable[[], Mapping[str, frozenset[Kind]]] = dict

    @cached_property
    def _accepted(self) -> Mapping[str, frozenset[Kind]]:
        return self.losses()

    @cached_property
    def _items(self) -> list[tuple[type[Algorithm[Any]], dict[str, Any]]]:
        """Every method that needs no settings of the user, with its item of a list."""
        found = [(cls, item) for cls in self.methods() if (item := _item(cls)) is not None]
        return sorted(found, key=lambda pair: (len(pair[1]), pair[0].name))

    def givers(self, source: Kind, targets: frozenset[Kind]) -> Iterator[dict[str, Any]]:
        """Yield items of a list that make one of some kinds of another kind."""
        for cls, item in self._items:
            edits = [edit for effect in cls.declaration.transforms for edit in effect.edits.values()]
            if any(edit.gives in targets and source in edit.needs for edit in edits):
                yield item

    def owners(self, claim: Claim, but: str) -> Iterator[dict[str, Any]]:
        """Yield items of a list that own the slot of a claim, other than the method of a name."""
        for cls, item in self._items:
            if cls.name != but and any(own.slot.name == claim.slot.name for own in cls.declaration.claims):
                yield item

    def losses_for(self, kind: Kind) -> list[str]:
        """Return the losses that accept a kind of target, those that take probabilities first."""
        fitting = [name for name, kinds in self._accepted.items() if kind in kinds]
        return sorted(fitting, key=lambda name: (DENSE not in self._accepted[name], name))


def _item(cls: type[Algorithm[Any]]) -> dict[str, Any] | None:
    """Return an item of a list for a method, with the examples of the settings that it must have."""
    item: dict[str, Any] = {"name": cls.name}
    for key, setting in cls.model_fields.items():
        if setting.is_required():
            if not setting.examples:
                return None
            item[key] = setting.examples[0]
    return item
