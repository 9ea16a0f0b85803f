"""How an author declares effects: decorators, and the checks that run when a class is created."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence, Set
from typing import Any, TypeVar

from counterpoint.core.arguments import written
from counterpoint.core.declare.effects import Declaration, Edit, HookEffect, Law, Phase, TransformEffect
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import Claim, Field, Kind
from counterpoint.core.errors import DeclarationError, nearest

__all__ = ["after", "around", "before", "replace", "transform"]

_MARK = "__counterpoint_effect__"
_Method = TypeVar("_Method", bound=Callable[..., Any])
Kinds = Kind | Collection[Kind]
Fields = str | Collection[str]


def transform(
    *,
    inputs: Kinds | Edit | None = None,
    targets: Kinds | Edit | None = None,
    law: Law | None = None,
    claims: Claim | Collection[Claim] = (),
    reads: Fields = (),
    unedited: bool = False,
    sample_losses: bool = False,
    eager: bool = False,
) -> Callable[[_Method], _Method]:
    """Declare a method ``apply(self, batch, draws) -> Batch`` as a pure edit of the batch.

    ``inputs`` and ``targets`` are the kinds of each field that it edits by the ``law``, or your own ``Edit``; other
    fields are not edited. ``claims`` are the slots it owns, and ``reads`` the fields that it only reads. With
    ``unedited`` it gets the batch before any edit. With ``sample_losses`` the method takes a fourth argument, a
    function that runs the model on the unedited batch, through steps that change kinds alone, and returns the loss of
    each sample. ``eager`` keeps the method out of a compiled plan: for draws whose shapes change from batch to batch,
    and for code that ``torch.compile`` cannot compile as one graph. Raises ``DeclarationError`` for a declaration that
    is empty or contradicts itself.

    >>> from counterpoint.core.declare.kinds import CONTINUOUS, MIXABLE, MIXING
    >>> declared = transform(inputs=CONTINUOUS, targets=MIXABLE, law=Law.CONVEX, claims=MIXING)
    """
    _expect_flags(unedited=unedited, sample_losses=sample_losses, eager=eager)

    def mark(method: _Method) -> _Method:
        _expect_function(method)
        edits = {
            part: _edit(part, given, law, method.__name__)
            for part, given in ((Field.INPUTS, inputs), (Field.TARGETS, targets))
            if given is not None
        }
        if not edits:
            raise DeclarationError(
                f"@transform()\ndef {method.__name__}(...)",
                "a transform that declares no edit cannot be ordered or checked",
                "@transform(inputs=CONTINUOUS, targets=MIXABLE, law=Law.CONVEX)",
            )
        effect = TransformEffect(
            method.__name__,
            edits,
            _claims(claims),
            _fields(reads, method.__name__),
            unedited,
            sample_losses,
            eager,
            _where(method),
        )
        _expect_arguments(method, "(self, batch, draws, losses)" if sample_losses else "(self, batch, draws)")
        setattr(method, _MARK, effect)
        return method

    return mark


def before(
    event: Event, *, reads: Fields = (), writes: Fields = (), claims: Claim | Collection[Claim] = ()
) -> Callable[[_Method], _Method]:
    """Declare a method ``hook(self, state, scope)`` that runs before a span.

    ``reads`` and ``writes`` name the fields it reads and edits, ``claims`` the slots it owns.

    >>> declared = before(Event.UPDATE, writes="gradients")
    """
    return _hook(event, Phase.BEFORE, reads, writes, (), claims)


def after(
    event: Event, *, reads: Fields = (), writes: Fields = (), claims: Claim | Collection[Claim] = ()
) -> Callable[[_Method], _Method]:
    """Declare a method ``hook(self, state, scope)`` that runs after a span that ended well.

    >>> declared = after(Event.STEP, reads="parameters")
    """
    return _hook(event, Phase.AFTER, reads, writes, (), claims)


def around(
    event: Event,
    *,
    reads: Fields = (),
    writes: Fields = (),
    restores: Fields = (),
    claims: Claim | Collection[Claim] = (),
    whole_batch: bool = False,
) -> Callable[[_Method], _Method]:
    """Declare a generator method ``hook(self, state, scope)`` that yields once, while the span runs.

    It is resumed with the ``Outcome`` of the span, also if the span raised: restoring needs no ``try``. ``restores``
    names the written fields that it restores. With ``whole_batch`` the span must hold the whole device batch, and a run
    with microbatches is refused.

    >>> declared = around(Event.EVALUATION, writes="parameters", restores="parameters")
    """
    return _hook(event, Phase.AROUND, reads, writes, restores, claims, whole_batch)


def replace(
    event: Event, *, reads: Fields = (), writes: Fields = (), claims: Claim | Collection[Claim] = ()
) -> Callable[[_Method], _Method]:
    """Declare a method ``hook(self, state, scope, run)`` that runs in place of the closure of ``Event.STEP``.

    ``run()`` zeroes the gradients, runs the forward and backward passes of the whole device batch, and returns the
    loss; the hook may call it more than once and returns the loss to report.

    >>> declared = replace(Event.STEP, writes="parameters")
    """
    if _event(event) is not Event.STEP:
        raise DeclarationError(
            f"@replace(Event.{_event(event).name})", "only the step can be run another way", "@replace(Event.STEP)"
        )
    return _hook(event, Phase.REPLACE, reads, writes, (), claims)


def _hook(
    event: Event,
    phase: Phase,
    reads: Fields,
    writes: Fields,
    restores: Fields,
    claims: Claim | Collection[Claim],
    whole_batch: bool = False,
) -> Callable[[_Method], _Method]:
    _expect_flags(whole_batch=whole_batch)

    def mark(method: _Method) -> _Method:
        _expect_function(method)
        name = method.__name__
        effect = HookEffect(
            name,
            _event(event),
            phase,
            _fields(reads, name),
            _fields(writes, name),
            _fields(restores, name),
            _claims(claims),
            whole_batch,
            _where(method),
        )
        _check_hook(effect, method)
        setattr(method, _MARK, effect)
        return method

    return mark


def _check_hook(effect: HookEffect, method: Callable[..., Any]) -> None:
    line = f"@{effect.phase.value}(Event.{effect.event.name}, ...)\ndef {effect.method}(...)"
    if not effect.reads | effect.writes:
        raise DeclarationError(
            line, "a hook that names no field it reads or writes cannot be checked", 'reads="parameters", for example'
        )
    if not effect.restores <= effect.writes:
        raise DeclarationError(
            line, "only what is written can be restored", 'writes="parameters", restores="parameters"'
        )
    replaces = effect.phase is Phase.REPLACE
    _expect_arguments(method, "(self, state, scope, run)" if replaces else "(self, state, scope)")
    if inspect.isgeneratorfunction(method) is not (effect.phase is Phase.AROUND):
        raise DeclarationError(
            line,
            "an around hook yields once, while the span runs; every other hook returns",
            "write `outcome = yield` in an around hook, and only there",
        )


def _event(given: object) -> Event:
    if not isinstance(given, str) or given not in [event.value for event in Event]:
        near = nearest(given if isinstance(given, str) else "", [event.value for event in Event])[2:]
        raise DeclarationError(
            f"a hook at {written(given)}", "there is no such event", f"Event.STEP, for example; {near}"
        )
    return Event(given)


def _expect_flags(**flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise DeclarationError(f"{name}={written(value)}", "it is True or False", f"{name}=True")


def _expect_function(method: object) -> None:
    if not inspect.isfunction(method):
        raise DeclarationError(
            f"@... on {written(method)}", "effects are declared of a method of a class", "def apply(self, batch, draws)"
        )


def _where(method: Callable[..., Any]) -> str:
    return f"{method.__code__.co_filename}:{method.__code__.co_firstlineno}"


def _expect_arguments(method: Callable[..., Any], form: str) -> None:
    signature = inspect.signature(method)
    if len(signature.parameters) != form.count(",") + 1:
        raise DeclarationError(
            f"def {method.__name__}{signature}",
            f"it is called with {form.count(',') + 1} arguments",
            f"def {method.__name__}{form}",
        )


def _edit(part: Field, given: Kinds | Edit, law: Law | None, method: str) -> Edit:
    if isinstance(given, Edit):
        edit = given
    elif law is None:
        raise DeclarationError(
            f"@transform({part.value}=...) on {method}, without a law",
            "the kinds alone do not say how the edit commutes with others",
            f"@transform({part.value}=..., law=Law.CONVEX), or {part.value}=Edit(...) with every property",
        )
    elif not isinstance(law, Law):
        near = nearest(law.upper() if isinstance(law, str) else "", [known.name for known in Law])[2:]
        raise DeclarationError(f"law={written(law)} on {method}", "there is no such law", f"law=Law.CONVEX; {near}")
    else:
        edit = law.edit(part, _kinds(part, given, method))
    strangers = [kind for kind in edit.needs | ({edit.gives} if edit.gives else set()) if kind.field is not part]
    if strangers or not edit.needs:
        raise DeclarationError(
            f"@transform({part.value}={{{', '.join(map(str, strangers))}}}) on {method}",
            "each kind belongs to one field, and an edit takes at least one kind",
            f"kinds whose field is {part.value!r}",
        )
    return edit


def _kinds(part: Field, given: object, method: str) -> frozenset[Kind]:
    kinds = [given] if isinstance(given, Kind) else list(given) if isinstance(given, Set | Sequence) else [given]
    if not all(isinstance(kind, Kind) for kind in kinds):
        raise DeclarationError(
            f"@transform({part.value}={written(given)}) on {method}", "these are no kinds", f"{part.value}=CONTINUOUS"
        )
    return frozenset(kinds)


def _claims(given: object) -> tuple[Claim, ...]:
    claims = [given] if isinstance(given, Claim) else list(given) if isinstance(given, Set | Sequence) else [given]
    if not all(isinstance(claim, Claim) for claim in claims):
        raise DeclarationError(f"claims={written(given)}", "it is a claim, or several", "claims=MIXING")
    return tuple(claims)


def _fields(given: object, method: str) -> frozenset[Field]:
    words = [given] if isinstance(given, str) else list(given) if isinstance(given, Set | Sequence) else [given]
    known = [part.value for part in Field]
    for word in words:
        if not isinstance(word, str) or word not in known:
            near = nearest(word if isinstance(word, str) else "", known)[2:]
            raise DeclarationError(f"{written(word)} in the declaration of {method}", "no such field", near)
    return frozenset(Field(str(word)) for word in words)


def collect(cls: type) -> Declaration:
    """Gather what a class declares, in the order of definition, base classes first.

    Raises ``DeclarationError`` where a subclass redefines a declared method without declaring it again.
    """
    effects: dict[str, TransformEffect | HookEffect] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            effect = getattr(value, _MARK, None)
            if isinstance(effect, TransformEffect | HookEffect):
                effects[name] = effect
            elif name in effects:
                raise DeclarationError(
                    f"def {name}(...) in {cls.__name__}",
                    f"it replaces a declared method of {base.__mro__[1].__name__} without declaring its own effects",
                    f"decorate {name} again with what it does",
                )
    return Declaration(
        tuple(e for e in effects.values() if isinstance(e, TransformEffect)),
        tuple(e for e in effects.values() if isinstance(e, HookEffect)),
    )
