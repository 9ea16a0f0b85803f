"""A composition in the making: what is in the list, and for whom its declarations leave room."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from counterpoint import Claim, Kind
from counterpoint.core import Algorithm
from tests.laws.case import Small

__all__ = ["Draft", "altered", "claims_of", "clash", "leaves"]


@dataclass
class Draft:
    """A composition in the making: the list, the facts, the kinds that the fields can have, and the slots taken."""

    facts: dict[str, Any]
    loss: str
    listed: list[Any] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    kinds: set[Kind] = field(default_factory=set)

    def add(self, algorithm: Algorithm[Any]) -> None:
        """Put a method into the list, under a name that is free."""
        names = self.names()
        if algorithm.identity in names:
            free = next(name for number in range(2, 99) if (name := f"{algorithm.name}_{number}") not in names)
            algorithm = altered(algorithm, id=free)
        self.listed.append(algorithm)
        for leaf in leaves(algorithm):
            declared = leaf.declared()
            self.claims += declared.claims
            edits = [edit for effect in declared.transforms for edit in effect.edits.values()]
            self.kinds |= {edit.gives for edit in edits if edit.gives is not None}

    def names(self) -> list[str]:
        return [item.identity for item in self.listed if isinstance(item, Algorithm)]

    def fits(self, algorithm: Algorithm[Any]) -> bool:
        """Whether declarations leave room for a method."""
        task = self.facts["task"]
        for leaf in leaves(algorithm):
            declared = leaf.declared()
            if list(leaf.misfits(model_for(task, self.facts["inputs"] == "features"))):
                return False
            if any(tasks is not None and task not in tasks for tasks in (leaf.tasks, declared.tasks)):
                return False
            edits = [edit for effect in declared.transforms for edit in effect.edits.values()]
            if any(not edit.needs & self.kinds or edit.gives in self.kinds for edit in edits):
                return False
            if self.loss == "none" and any(effect.sample_losses for effect in declared.transforms):
                return False
            if self.facts["microbatches"] > 1 and any(hook.whole_batch for hook in declared.hooks):
                return False
        return not any(clash(mine, theirs) for mine in claims_of(algorithm) for theirs in self.claims)


@functools.cache
def model_for(task: str, features: bool) -> Small:
    return Small(task, features=features)


def altered(algorithm: Algorithm[Any], **settings: Any) -> Algorithm[Any]:
    """Return an algorithm with other settings."""
    return type(algorithm).model_validate(dict(algorithm) | settings)


def leaves(algorithm: Algorithm[Any]) -> list[Algorithm[Any]]:
    """Return an algorithm, or those among which it chooses."""
    branches = algorithm.alternatives()
    return [leaf for branch, _ in branches for leaf in leaves(branch)] if branches else [algorithm]


def claims_of(algorithm: Algorithm[Any]) -> list[Claim]:
    return [claim for leaf in leaves(algorithm) for claim in leaf.declared().claims]


def clash(mine: Claim, theirs: Claim) -> bool:
    return mine.slot.name == theirs.slot.name and not (mine.shared and theirs.shared)
