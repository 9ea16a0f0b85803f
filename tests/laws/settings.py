"""Random legal settings of everything that is registered, read off the types and limits of its fields."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from random import Random
from typing import Any

import annotated_types
import pydantic
from pydantic.fields import FieldInfo
from torch import nn

import counterpoint as cp
from counterpoint import Kind
from counterpoint.losses import resolve_loss
from counterpoint.plugins import ALGORITHMS, LOSSES
from tests.laws.case import CLASSES

Sampler = Callable[[Random], Any]
COMMON = frozenset({"start", "end", "every", "p", "after", "before", "id"})


def weights(dice: Random) -> tuple[float, ...] | None:
    return dice.choice([None, tuple(dice.choice([0.25, 0.5, 1.0, 2.0]) for _ in range(CLASSES))])


SPECIAL: dict[tuple[str, str], Sampler] = {
    ("manifold_mixup", "module"): lambda dice: dice.choice([("stem",), ("head",), ("stem", "head")]),
    ("cutout", "fill"): lambda dice: dice.choice([0.0, 0.0, 0.5, 1.0, 114.0, -1.0]),
    ("normalize", "mean"): lambda dice: dice.choice([(0.5,), (0.4, 0.5, 0.6)]),
    ("normalize", "std"): lambda dice: dice.choice([(0.2,), (0.2, 0.3, 0.4)]),
    **{(loss, "weight"): weights for loss in ("bce", "cross_entropy", "focal", "nll")},
    ("bce", "pos_weight"): weights,
    **{
        (loss, "ignore_index"): lambda dice: dice.choice([-100, -1, 0, CLASSES - 1, 255])
        for loss in ("cross_entropy", "focal", "nll")
    },
}
"""Settings whose legal values their types do not tell, by method or loss, and setting."""


@functools.cache
def registered() -> dict[str, type[cp.Algorithm[Any]]]:
    """Return every method that is registered: a new one is drawn like the others."""
    return {name: ALGORITHMS.load(name) for name in ALGORITHMS.names()}


@functools.cache
def registered_losses() -> dict[str, Any]:
    """Return the settings of every registered loss."""
    return {name: LOSSES.load(name) for name in LOSSES.names()}


def a_loss(dice: Random, name: str) -> nn.Module:
    """Draw a registered loss with legal settings, now and then without a reduction."""
    settings = legal(dice, name, registered_losses()[name])
    loss: nn.Module = registered_losses()[name].model_validate(settings).build()
    if dice.random() < 0.15:
        loss.reduction = "none"
    return loss


@functools.cache
def accepted_by(loss: str) -> frozenset[Kind]:
    """Return the kinds of target that a registered loss takes."""
    spec = resolve_loss(registered_losses()[loss]().build())
    assert spec is not None, f"the registered loss {loss} is not known to the checker"
    return spec.accepts


def legal(dice: Random, name: str, cls: type[pydantic.BaseModel]) -> dict[str, Any]:
    """Draw each setting of a registered thing: half the time its default, else any legal value."""
    settings = {}
    for key, sampler, required in samplers(name, cls):
        if required or dice.random() < 0.5:
            settings[key] = sampler(dice)
    return settings


@functools.cache
def samplers(name: str, cls: type[pydantic.BaseModel]) -> tuple[tuple[str, Sampler, bool], ...]:
    """Return a sampler for each setting that may be drawn, and whether the setting must be given."""
    found = []
    for key, field in cls.model_fields.items():
        if key in COMMON and issubclass(cls, cp.Algorithm):
            continue
        sampler = SPECIAL.get((name, key)) or sampler_of(field)
        if sampler is None:
            raise AssertionError(f"say in SPECIAL what {name}.{key} may be: {field.annotation}")
        found.append((key, sampler, field.is_required()))
    return tuple(found)


def sampler_of(field: FieldInfo) -> Sampler | None:
    """Return a sampler for a field."""
    return values_of(field.annotation, list(field.metadata))


def values_of(annotation: Any, limits: list[Any]) -> Sampler | None:
    """Return a sampler for a type, within its limits; ``None`` if the type does not tell."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return lambda dice: dice.choice(arguments)
    if origin in (typing.Union, types.UnionType):
        parts = [values_of(part, limits) for part in arguments if part is not type(None)]
        known = [part for part in parts if part is not None]
        return (lambda dice: dice.choice([*known, lambda _: None])(dice)) if known else None
    if annotation is bool:
        return lambda dice: dice.random() < 0.5
    return _numbers(annotation, limits) if annotation in (int, float) else None


def _numbers(annotation: type, limits: list[Any]) -> Sampler:
    low = max([limit.ge for limit in limits if isinstance(limit, annotated_types.Ge)], default=None)
    above = max([limit.gt for limit in limits if isinstance(limit, annotated_types.Gt)], default=None)
    high = min([limit.le for limit in limits if isinstance(limit, annotated_types.Le)], default=None)
    below = min([limit.lt for limit in limits if isinstance(limit, annotated_types.Lt)], default=None)
    start = low if low is not None else above if above is not None else -2
    if high is not None and high - start > 100:  # a bound that only keeps numbers within reason
        high = None
    end = high if high is not None else below if below is not None else start + 4
    if annotation is int:
        first, last = start + (low is None and above is not None), end - (high is None and below is not None)
        return lambda dice: dice.randint(first, last)
    edges = [float(edge) for edge in (low, high) if edge is not None]

    def number(dice: Random) -> float:
        if edges and dice.random() < 0.2:
            return dice.choice(edges)
        return start + (end - start) * dice.uniform(1e-3, 1 - 1e-3)

    return number
