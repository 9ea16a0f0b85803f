"""The core: what a method declares, how a list of methods is checked, and how the checked plan runs.

Read it in this order: ``events``, ``kinds``, ``effects``, ``declare``, ``algorithm`` (what an author states); ``member``,
``commute``, ``wiring``, ``order``, ``checks``, ``compose`` (how it is verified); ``plan``, ``run``, ``engine`` (how it runs).
"""

from counterpoint.core.algorithm import Algorithm, Component
from counterpoint.core.batch import Batch, BatchSpec
from counterpoint.core.compose import compose
from counterpoint.core.declare import after, around, before, replace, transform
from counterpoint.core.durations import Duration
from counterpoint.core.effects import Edit, Form, Law
from counterpoint.core.engine import Engine
from counterpoint.core.events import Event
from counterpoint.core.facts import Facts
from counterpoint.core.faults import Fault, Terms
from counterpoint.core.loss import LossSpec
from counterpoint.core.plan import Plan
from counterpoint.core.rng import Rng
from counterpoint.core.scope import Outcome, Scope

__all__ = [
    "Algorithm",
    "Batch",
    "BatchSpec",
    "Component",
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
