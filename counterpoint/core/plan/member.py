"""A method as a member of a composition: its name there, its schedule in batches, and its branches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.effects import Declaration, Phase
from counterpoint.core.declare.kinds import Claim, Field
from counterpoint.core.plan.schedule import Schedule

__all__ = ["Member"]

HELD_ALIKE = frozenset({Field.PARAMETERS, Field.GRADIENTS, Field.MODULES, Field.OPTIMIZER})
"""What is equal on all ranks, and would differ if each rank edited it by its own draws."""


@dataclass(frozen=True)
class Member:
    """An algorithm of a composition: its identity, its schedule, and the branches among which it chooses, if any."""

    algorithm: Algorithm[Any]
    identity: str
    schedule: Schedule
    declaration: Declaration
    branches: tuple[Member, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def leaves(self) -> tuple[Member, ...]:
        """The members that act: itself, or the leaves of its branches."""
        return tuple(leaf for branch in self.branches for leaf in branch.leaves) if self.branches else (self,)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Every slot that it owns, each once."""
        return tuple(dict.fromkeys(claim for leaf in self.leaves for claim in leaf.declaration.claims))

    @property
    def random(self) -> bool:
        """Whether anything about it is drawn: its coin, its branch, or what its ``draw`` returns."""
        return self.schedule.p < 1 or bool(self.branches) or type(self.algorithm).draw is not Algorithm.draw

    @property
    def unscheduled(self) -> bool:
        """Whether its schedule switches nothing, since it acts outside of batches alone."""
        hooks = self.declaration.hooks
        return bool(hooks) and not (self.declaration.transforms or any(hook.event.in_batch for hook in hooks))

    @cached_property
    def rank_free(self) -> bool:
        """Whether every rank gets the same draws: as declared, or because it edits what must be equal on all ranks."""
        hooks = [hook for leaf in self.leaves for hook in leaf.declaration.hooks]
        return self.algorithm.shared or any(hook.phase is Phase.REPLACE or hook.writes & HELD_ALIKE for hook in hooks)

    @cached_property
    def acts_alike(self) -> bool:
        """Whether it acts on the same batches on every rank, as it must if it runs the model, which may be sharded."""
        transforms = [transform for leaf in self.leaves for transform in leaf.declaration.transforms]
        return self.rank_free or any(transform.sample_losses for transform in transforms)
