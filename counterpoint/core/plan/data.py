"""The result of a check as plain, frozen data: facts, members, and steps in their order."""

from __future__ import annotations

from dataclasses import dataclass

from counterpoint.core.declare.effects import Contract
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.plan.decisions import Decision, Pair
from counterpoint.core.plan.facts import Facts
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.steps import BatchStep, HookStep

__all__ = ["PlanData"]


@dataclass(frozen=True, eq=False)
class PlanData:
    """An order of steps that fit each other, the data and the loss.

    ``steps`` edit a batch and ``hooks`` training state, both in running order. ``pairs`` are those whose order the list
    decided, or did not decide; ``decisions`` has the rule for every two that do not commute.
    """

    facts: Facts
    members: tuple[Member, ...]
    steps: tuple[BatchStep, ...]
    hooks: tuple[HookStep, ...]
    pairs: tuple[Pair, ...]
    decisions: tuple[Decision, ...] = ()
    loss_spec: LossSpec | None = None
    contract: Contract = Contract.FIRST_STEPS

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the steps in running order, conversions included, hooks last in the order of the loop."""
        return (*(step.name for step in self.steps), *dict.fromkeys(hook.name for hook in self.hooks))

    @property
    def ignore_index(self) -> int:
        """The class index that marks an ignored position: the loss's, -100 without a loss."""
        return -100 if self.loss_spec is None else self.loss_spec.ignore_index
