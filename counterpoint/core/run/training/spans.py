"""A span of the loop while it is open: its hooks run before, around and after what the loop does in it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

from counterpoint.core.declare.context import Outcome, Training
from counterpoint.core.declare.effects import Contract
from counterpoint.core.declare.events import Event
from counterpoint.core.errors import ContractError, MethodError
from counterpoint.core.run.batch.contract import watch_hook, watch_restoring
from counterpoint.core.run.failures import MethodCode
from counterpoint.core.run.training.event_checks import Fired
from counterpoint.core.run.training.hooks import NO_HOOKS, Handler, Handlers
from counterpoint.core.run.training.open_batches import OpenedBatches

__all__ = ["Span", "SpanContext"]


@dataclass(frozen=True, eq=False)
class SpanContext:
    """What the spans of an engine share."""

    training: Training
    opened: OpenedBatches
    handlers: Handlers
    fired: Fired
    contract: Contract


class Span:
    """Fires one span of a loop; hooks after it run only where it ended without an exception."""

    __slots__ = ("_acting", "_around", "_event", "_loop")

    def __init__(self, loop: SpanContext, event: Event) -> None:
        self._loop, self._event = loop, event
        self._acting = NO_HOOKS
        self._around: ExitStack | None = None

    def __enter__(self) -> None:
        loop, event = self._loop, self._event
        if event in loop.fired.watched:
            loop.fired.note(event)
        self._acting = acting = loop.handlers.at(event)
        for call, state, scope in acting.before:
            call(state, scope)
        if acting.around:
            with ExitStack() as entered:
                for handler in acting.around:
                    self._enter(handler, entered)
                self._around = entered.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._around is not None:
            self._around.__exit__(kind, error, trace)
        if kind is None:
            for call, state, scope in self._acting.after:
                call(state, scope)

    def _enter(self, handler: Handler, entered: ExitStack) -> None:
        loop, effect, name = self._loop, handler.step.effect, handler.step.name
        scope = loop.handlers.scope(handler, tuple(loop.opened.at(self._event)))
        hook = handler.call(loop.handlers.state(handler), scope)
        restored = watch_restoring(loop.contract, name, effect, loop.training.model)
        done = watch_hook(loop.contract, name, effect, loop.training.model)
        code = loop.handlers.code(handler)
        with code:
            try:
                next(hook)
            except StopIteration:
                raise ContractError(f"{name}.{effect.method} does not yield: around a span it yields once") from None
        entered.push(_Resume(hook, name, restored, code))
        done()


@dataclass(frozen=True)
class _Resume:
    """Resumes a hook around a span with the outcome; an ExitStack calls it whatever happened."""

    hook: Generator[None, Outcome, None]
    owner: str
    restored: Callable[[], None]
    code: MethodCode

    def __call__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Resume the hook."""
        with self.code:
            try:
                self.hook.send(Outcome(error.__cause__ if isinstance(error, MethodError) else error))
            except StopIteration:
                self.restored()
                return False
        raise ContractError(f"{self.owner} yields more than once around a span: yield once, then restore")
