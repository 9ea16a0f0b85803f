"""The core: what a method declares, how a list of methods is checked, and how the checked plan runs.

Four rooms: ``declare`` has what an author writes with, ``check`` turns a list of methods into a plan or every fault,
``plan`` is that result as plain data, and ``run`` does what the plan says. ``check`` and ``run`` meet in the plan. Each
is imported when it is first used: the errors can be imported without torch.
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
    from counterpoint.core.run.training.accumulation import Part, Passes
    from counterpoint.core.run.training.engine import Engine
    from counterpoint.core.run.training.shares import shares

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.core.declare.algorithm": ("Algorithm", "Component"),
        "counterpoint.core.declare.batch": ("Batch", "BatchSpec"),
        "counterpoint.core.composing": ("compose",),
        "counterpoint.core.declare.decorators": ("after", "around", "before", "replace", "transform"),
        "counterpoint.core.declare.durations": ("Duration",),
        "counterpoint.core.declare.effects": ("Declaration", "Edit", "Form", "Law"),
        "counterpoint.core.run.training.accumulation": ("Part", "Passes"),
        "counterpoint.core.run.training.engine": ("Engine",),
        "counterpoint.core.run.training.shares": ("shares",),
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
    "Part",
    "Passes",
    "Plan",
    "Rng",
    "Scope",
    "Terms",
    "after",
    "around",
    "before",
    "compose",
    "replace",
    "shares",
    "transform",
]
