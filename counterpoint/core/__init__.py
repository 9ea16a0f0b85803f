"""The core: what a method declares, how a list of methods is checked, and how the checked plan runs.

Read it in this order: ``events``, ``kinds``, ``effects``, ``declare``, ``algorithm`` (what an author states);
``member``, ``commute``, ``wiring``, ``order``, ``checks``, ``checker`` (how it is verified); ``plan``, ``run``,
``engine`` (how it runs). Nothing is imported until it is asked for, so that the errors can be had without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.core.check.fixes.terms import Terms
    from counterpoint.core.composing import compose
    from counterpoint.core.declare.algorithm import Algorithm, Component
    from counterpoint.core.declare.batch import Batch, BatchSpec
    from counterpoint.core.declare.context import Outcome, Scope
    from counterpoint.core.declare.decorators import after, around, before, replace, transform
    from counterpoint.core.declare.durations import Duration
    from counterpoint.core.declare.effects import Declaration, Edit, Form, Law
    from counterpoint.core.declare.events import Event
    from counterpoint.core.declare.loss import LossSpec, OutputKind
    from counterpoint.core.declare.randomness import Rng
    from counterpoint.core.faults import Fault
    from counterpoint.core.plan.facts import Facts
    from counterpoint.core.run.plan import Plan
    from counterpoint.core.run.training.engine import Engine

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.core.declare.algorithm": ("Algorithm", "Component"),
        "counterpoint.core.declare.batch": ("Batch", "BatchSpec"),
        "counterpoint.core.composing": ("compose",),
        "counterpoint.core.declare.decorators": ("after", "around", "before", "replace", "transform"),
        "counterpoint.core.declare.durations": ("Duration",),
        "counterpoint.core.declare.effects": ("Declaration", "Edit", "Form", "Law"),
        "counterpoint.core.run.training.engine": ("Engine",),
        "counterpoint.core.declare.events": ("Event",),
        "counterpoint.core.plan.facts": ("Facts",),
        "counterpoint.core.faults": ("Fault",),
        "counterpoint.core.declare.loss": ("LossSpec", "OutputKind"),
        "counterpoint.core.run.plan": ("Plan",),
        "counterpoint.core.declare.randomness": ("Rng",),
        "counterpoint.core.declare.context": ("Outcome", "Scope"),
        "counterpoint.core.check.fixes.terms": ("Terms",),
    },
)

__all__ = [
    "Algorithm",
    "Batch",
    "BatchSpec",
    "Component",
    "Declaration",
    "Duration",
    "Edit",
    "Engine",
    "Event",
    "Facts",
    "Fault",
    "Form",
    "Law",
    "LossSpec",
    "Outcome",
    "OutputKind",
    "Plan",
    "Rng",
    "Scope",
    "Terms",
    "after",
    "around",
    "before",
    "compose",
    "replace",
    "transform",
]
