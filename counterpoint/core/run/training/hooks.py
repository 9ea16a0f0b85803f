"""The hooks that run at a span, bound to their arguments before the span is entered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from counterpoint.core.declare.context import Opened, Scope, Training
from counterpoint.core.declare.effects import Contract, Phase
from counterpoint.core.declare.events import Event
from counterpoint.core.plan.steps import HookStep
from counterpoint.core.run.batch.contract import watch_hook, watched_call
from counterpoint.core.run.failures import MethodCode
from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.open_batches import OpenedBatches

__all__ = ["NO_HOOKS", "Acting", "Bound", "Handler", "Handlers"]

_KEPT = 256
"""For how many sets of acting methods each span keeps its hooks; methods that act by chance make many sets."""

Bound = tuple[Callable[..., Any], object, Scope]
"""A hook, and the state and the scope that it is called with."""


@dataclass(frozen=True)
class Handler:
    """A hook bound to its algorithm."""

    step: HookStep
    call: Callable[..., Any]


class Acting(NamedTuple):
    """The hooks that run at a span, in each phase in the order of the plan.

    Hooks around it get a new scope each time, because other batches may be opened before they are resumed.
    """

    before: tuple[Bound, ...] = ()
    around: tuple[Handler, ...] = ()
    replace: tuple[Bound, ...] = ()
    after: tuple[Bound, ...] = ()


NO_HOOKS = Acting()


class Handlers:
    """The hooks of a plan by the span and the phase at which they act.

    ``remembered`` returns the state of the algorithms, by their names.
    """

    def __init__(
        self, plan: Plan, training: Training, opened: OpenedBatches, remembered: Callable[[], Mapping[str, object]]
    ) -> None:
        self._contract, self._training, self._opened, self._remembered = plan.contract, training, opened, remembered
        self._hooks: dict[Event, list[Handler]] = {}
        for hook in plan.hooks:
            call = getattr(hook.work.algorithm, hook.effect.method)
            handler = Handler(hook, watched_call(plan.contract, hook.name, hook.effect, call, plan.runner.progress))
            self._hooks.setdefault(hook.effect.event, []).append(handler)
        self._known: dict[Event, dict[frozenset[str], Acting]] = {event: {} for event in self._hooks}

    def names(self, event: Event, *phases: Phase) -> list[str]:
        """Return the names of those that act at a span on any batch; with ``phases``, only in these."""
        hooks = [one for one in self._hooks.get(event, ()) if not phases or one.step.effect.phase in phases]
        return list(dict.fromkeys(handler.step.name for handler in hooks))

    def on_gradients(self) -> list[str]:
        """Return the names of those that act between the passes of a step and its update."""
        replacing = self.names(Event.STEP, Phase.REPLACE)
        return list(dict.fromkeys([*replacing, *self.names(Event.UPDATE, Phase.BEFORE, Phase.AROUND)]))

    def at(self, event: Event) -> Acting:
        """Return the hooks that run at a span that is entered now."""
        known = self._known.get(event)
        if known is None:
            return NO_HOOKS
        opened = self._opened.all
        if len(opened) == 1:
            found = known.get(opened[0].active)
            return self._keep(event, opened[0].active, opened) if found is None else found
        concerned = self._opened.at(event)
        return self._made(event, frozenset[str]().union(*(one.active for one in concerned)), tuple(concerned))

    def forget(self) -> None:
        """Bind the hooks again, because the state of the algorithms has been replaced."""
        for known in self._known.values():
            known.clear()

    def state(self, handler: Handler) -> object | None:
        """Return the state of the algorithm of a hook."""
        return None if handler.step.effect.event is Event.SETUP else self._remembered().get(handler.step.name)

    def scope(self, handler: Handler, concerned: Sequence[Opened]) -> Scope:
        """Return what a hook sees at a span over some of the batches at work."""
        return Scope(handler.step.name, handler.step.effect, self._training, concerned)

    def code(self, handler: Handler) -> MethodCode:
        """Return what names a hook, and the step, in an error of its code."""
        return _code(handler, self._opened)

    def _keep(self, event: Event, active: frozenset[str], concerned: Sequence[Opened]) -> Acting:
        known = self._known[event]
        if len(known) >= _KEPT:
            known.clear()
        known[active] = self._made(event, active, concerned)
        return known[active]

    def _made(self, event: Event, active: frozenset[str], concerned: Sequence[Opened]) -> Acting:
        acting = [one for one in self._hooks[event] if not event.in_batch or one.step.name in active]
        concerned = concerned if event.in_batch else ()
        phases = {phase: [one for one in acting if one.step.effect.phase is phase] for phase in Phase}
        before, replace, after = (
            tuple(self._bound(one, concerned) for one in phases[phase])
            for phase in (Phase.BEFORE, Phase.REPLACE, Phase.AFTER)
        )
        return Acting(before, tuple(phases[Phase.AROUND]), replace, after)

    def _bound(self, handler: Handler, concerned: Sequence[Opened]) -> Bound:
        watched = self._contract is Contract.ALWAYS and handler.step.effect.phase is not Phase.REPLACE
        call = _watched(handler, self._training.model) if watched else handler.call
        named = _replacing if handler.step.effect.phase is Phase.REPLACE else _named
        return named(call, handler, self._opened), self.state(handler), self.scope(handler, concerned)


def _watched(handler: Handler, model: nn.Module) -> Callable[..., None]:
    """Return a hook that is checked against its declaration."""

    def call(state: object, scope: Scope) -> None:
        done = watch_hook(Contract.ALWAYS, handler.step.name, handler.step.effect, model)
        handler.call(state, scope)
        done()

    return call


def _code(handler: Handler, opened: OpenedBatches) -> MethodCode:
    step = opened.all[0].number if opened.all else None
    return MethodCode(f"{handler.step.name}.{handler.step.effect.method}", step)


def _named(call: Callable[..., Any], handler: Handler, opened: OpenedBatches) -> Callable[..., Any]:
    """Return a hook that is named in an error of its code."""

    def named(state: object, scope: Scope) -> Any:
        with _code(handler, opened):
            return call(state, scope)

    return named


def _replacing(call: Callable[..., Any], handler: Handler, opened: OpenedBatches) -> Callable[..., Any]:
    """Return a hook that is named in an error of its own code, and not in one of the pass that it runs."""

    def named(state: object, scope: Scope, run: Callable[[], Any]) -> Any:
        raised: list[BaseException] = []

        def passed() -> Any:
            try:
                return run()
            except BaseException as error:
                raised.append(error)
                raise

        try:
            return call(state, scope, passed)
        except Exception as error:
            if any(error is one for one in raised):
                raise
            with _code(handler, opened):
                raise

    return named
