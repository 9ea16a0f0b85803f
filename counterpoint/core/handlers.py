"""Hooks bound to their algorithms: by the span and the phase at which they act, and resumed at a span's end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from counterpoint.core.effects import Phase
from counterpoint.core.errors import ContractError
from counterpoint.core.events import Event
from counterpoint.core.plan import Plan
from counterpoint.core.scope import Outcome
from counterpoint.core.steps import HookStep

__all__ = ["Handler", "Resume", "handlers"]


@dataclass(frozen=True)
class Handler:
    """A hook bound to its algorithm."""

    step: HookStep
    call: Callable[..., Any]


@dataclass(frozen=True)
class Resume:
    """Resumes a hook around a span with the outcome; an ExitStack calls it whatever happened."""

    hook: Generator[None, Outcome, None]
    owner: str
    restored: Callable[[], None]

    def __call__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Resume the hook."""
        try:
            self.hook.send(Outcome(error))
        except StopIteration:
            self.restored()
            return False
        raise ContractError(f"{self.owner} yields more than once around a span: yield once, then restore")


def handlers(plan: Plan) -> dict[tuple[Event, Phase], tuple[Handler, ...]]:
    """Return the hooks of a plan in their order, by where they act."""
    table: dict[tuple[Event, Phase], tuple[Handler, ...]] = {}
    for hook in plan.hooks:
        key = (hook.effect.event, hook.effect.phase)
        table[key] = (*table.get(key, ()), Handler(hook, getattr(hook.work.algorithm, hook.effect.method)))
    return table
