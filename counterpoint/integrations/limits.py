"""Faults of a plan with a loop: which of its steps need what the loop cannot do."""

from __future__ import annotations

from collections.abc import Iterable

from counterpoint.core.declare.effects import Phase
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import Field
from counterpoint.core.errors import CompositionError
from counterpoint.core.faults import Fault
from counterpoint.core.plan.steps import BatchStep, HookStep
from counterpoint.core.run.plan import Plan

__all__ = [
    "changes_kind",
    "compares_losses",
    "fault_of_steps",
    "raise_faults",
    "repeats_passes",
    "uses_gradients",
]


def raise_faults(faults: Iterable[Fault]) -> None:
    """Raise ``CompositionError`` with the faults, if there are any."""
    found = list(faults)
    if found:
        raise CompositionError(found)


def fault_of_steps(
    steps: Iterable[BatchStep | HookStep], message: str, fix: str, event: Event, *, code: str = "loop-limit"
) -> Fault:
    """Return a fault of steps with the loop; the message follows their names, and ``{names}`` in the fix is theirs."""
    names = tuple(dict.fromkeys(step.name for step in steps))
    words = ", ".join(names)
    return Fault(code, f"{words} {message}", fix.format(names=words), names, event)


def changes_kind(plan: Plan, field: Field) -> list[BatchStep]:
    """Return the steps that change the kind of the inputs or of the targets."""
    return [step for step in plan.steps if step.before.get(field) != step.after.get(field)]


def compares_losses(plan: Plan) -> list[BatchStep]:
    """Return the steps that run the model for the loss of each sample."""
    return [step for step in plan.steps if any(effect.sample_losses for effect in step.effects)]


def repeats_passes(plan: Plan) -> list[HookStep]:
    """Return the hooks that run the passes of a step more than once."""
    return [hook for hook in plan.hooks if hook.effect.phase is Phase.REPLACE]


def uses_gradients(plan: Plan) -> list[HookStep]:
    """Return the hooks that read or write gradients."""
    return [hook for hook in plan.hooks if Field.GRADIENTS in hook.effect.reads | hook.effect.writes]
