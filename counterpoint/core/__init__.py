"""The core: what a method declares, how a list of methods is checked, and how the checked plan runs.

Read it in this order: ``events``, ``kinds``, ``effects``, ``declare``, ``algorithm`` (what an author states);
``member``, ``commute``, ``wiring``, ``order``, ``checks``, ``compose`` (how it is verified); ``plan``, ``run``,
``engine`` (how it runs). Nothing is imported until it is asked for, so that the errors can be had without torch.
``compose`` is both a module here and the function in it: import the function from the module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterpoint.core.algorithm import Algorithm, Component
    from counterpoint.core.batch import Batch, BatchSpec
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

_HOMES = {
    "algorithm": ("Algorithm", "Component"),
    "batch": ("Batch", "BatchSpec"),
    "declare": ("after", "around", "before", "replace", "transform"),
    "durations": ("Duration",),
    "effects": ("Edit", "Form", "Law"),
    "engine": ("Engine",),
    "events": ("Event",),
    "facts": ("Facts",),
    "faults": ("Fault", "Terms"),
    "loss": ("LossSpec",),
    "plan": ("Plan",),
    "rng": ("Rng",),
    "scope": ("Outcome", "Scope"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

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
    "replace",
    "transform",
]


def __getattr__(name: str) -> object:
    """Import a name when it is first asked for."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    """List the names without importing them."""
    return sorted(__all__)
