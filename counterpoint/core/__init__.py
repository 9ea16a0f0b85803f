"""The core: what a method declares, how a list of methods is checked, and how the checked plan runs.

Read it in this order: ``events``, ``kinds``, ``effects``, ``declare``, ``algorithm`` (what an author states);
``member``, ``commute``, ``wiring``, ``order``, ``checks``, ``checker`` (how it is verified); ``plan``, ``run``,
``engine`` (how it runs). Nothing is imported until it is asked for, so that the errors can be had without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.core.algorithm import Algorithm, Component
    from counterpoint.core.batch import Batch, BatchSpec
    from counterpoint.core.composing import compose
    from counterpoint.core.declare import after, around, before, replace, transform
    from counterpoint.core.durations import Duration
    from counterpoint.core.effects import Declaration, Edit, Form, Law
    from counterpoint.core.engine import Engine
    from counterpoint.core.events import Event
    from counterpoint.core.facts import Facts
    from counterpoint.core.faults import Fault
    from counterpoint.core.loss import LossSpec, OutputKind
    from counterpoint.core.rng import Rng
    from counterpoint.core.runnable import Plan
    from counterpoint.core.scope import Outcome, Scope
    from counterpoint.core.terms import Terms

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.core.algorithm": ("Algorithm", "Component"),
        "counterpoint.core.batch": ("Batch", "BatchSpec"),
        "counterpoint.core.composing": ("compose",),
        "counterpoint.core.declare": ("after", "around", "before", "replace", "transform"),
        "counterpoint.core.durations": ("Duration",),
        "counterpoint.core.effects": ("Declaration", "Edit", "Form", "Law"),
        "counterpoint.core.engine": ("Engine",),
        "counterpoint.core.events": ("Event",),
        "counterpoint.core.facts": ("Facts",),
        "counterpoint.core.faults": ("Fault",),
        "counterpoint.core.loss": ("LossSpec", "OutputKind"),
        "counterpoint.core.runnable": ("Plan",),
        "counterpoint.core.rng": ("Rng",),
        "counterpoint.core.scope": ("Outcome", "Scope"),
        "counterpoint.core.terms": ("Terms",),
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
