"""Check a method alone, for each task and kind of inputs, and together with each other method.

Everything here is found by composing, so cards are always up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

from torch import nn

from counterpoint.composition import compose
from counterpoint.core.declare.algorithm import Algorithm, build
from counterpoint.core.declare.kinds import IMAGE, INPUT_KINDS, TASKS, Field
from counterpoint.core.errors import CompositionError
from counterpoint.core.run.plan import Plan
from counterpoint.plugins import ALGORITHMS, LOSSES

__all__ = ["alone", "beside", "matrix", "reasons"]

FITTING = {"multiclass": "cross_entropy", "segmentation": "cross_entropy", "multilabel": "bce", "regression": "mse"}
"""A loss that fits each task."""


def alone(component: Mapping[str, Any]) -> Iterator[str]:
    """Return as lines of Markdown which tasks and inputs a method fits; ``component`` is its name and its settings."""
    method = build(component, ALGORITHMS.load)
    kinds = [kind.name for kind in INPUT_KINDS]
    inputs = _inputs(method)
    yield _accepted("Tasks", TASKS, {task: _refusal([method], task=task, inputs=inputs) for task in TASKS})
    yield _accepted("Inputs", kinds, {kind: _refusal([method], inputs=kind) for kind in kinds})
    yield f"- Batches: {_batches(_plan([method], inputs=inputs))}."


def beside(component: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Return as lines of Markdown how a method fits each of the others; all are mappings with ``name`` and settings."""
    method = build(component, ALGORITHMS.load)
    yield "Two methods in one list, for `multiclass` with `cross_entropy`:"
    yield ""
    yield "| beside | verdict |"
    yield "| --- | --- |"
    for other in others:
        second = _second(build(other, ALGORITHMS.load), method)
        beside = f"`{second.name}`{' with an `id`' if second.id else ''}"
        yield f"| {beside} | {_verdict(method, second).words} |"


def _plan(algorithms: list[Algorithm[Any]], task: str = "multiclass", inputs: str = "image") -> Plan:
    classes = 10 if TASKS[task].classes else None
    # The inputs that a model takes do not depend on the method.
    facts: dict[str, Any] = {"num_classes": classes, "inputs": inputs, "model_inputs": INPUT_KINDS}
    return compose(algorithms, loss=_loss(task), task=task, **facts)


@cache
def _loss(task: str) -> nn.Module:
    module: nn.Module = LOSSES.load(FITTING[task])().build()
    return module


def _refusal(algorithms: list[Algorithm[Any]], **facts: str) -> str | None:
    """Return the code of the first fault, or nothing if there is none."""
    try:
        _plan(algorithms, **facts)
    except CompositionError as error:
        return error.faults[0].code
    return None


def _accepted(noun: str, words: Iterable[str], refusals: Mapping[str, str | None]) -> str:
    good = ", ".join(f"`{word}`" for word in words if refusals[word] is None)
    bad = ", ".join(f"`{word}` (`{code}`)" for word, code in refusals.items() if code is not None)
    return f"- {noun}: {good or 'none'}" + (f"; refused: {bad}." if bad else ".")


def _batches(plan: Plan) -> str:
    if not plan.steps:
        return "it leaves them as they are, and class indices stay class indices"
    parts = [part.value for part in Field if any(part in e.edits for step in plan.steps for e in step.effects)]
    if any(step.inserted for step in plan.steps):
        return f"it edits {' and '.join(parts)}; class indices become dense first (`{plan.steps[0].name}`)"
    return f"it edits {' and '.join(parts)}; class indices stay class indices"


def _inputs(*methods: Algorithm[Any]) -> str:
    """Return a kind of inputs that each method takes: images of unstated scale, or else the first of all kinds."""
    taken = [kind.name for kind in INPUT_KINDS if not any(_refusal([one], inputs=kind.name) for one in methods)]
    return taken[0] if taken else IMAGE.name


class Fit(NamedTuple):
    """What the checker says of two methods in one list: a sign for a table, and words."""

    sign: str
    words: str


SIGNS = {
    "=": "fit, and both lists give one plan: they commute",
    ".": "fit: they act at different moments",
    "<": "fit: the one of the row comes first, whatever the list",
    ">": "fit: the one of the column comes first, whatever the list",
    "L": "fit, in the order of the list",
    "x": "refused",
}


_UNORDERED = ("=", ".")


def matrix(examples: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Return as lines of a table how every method fits every other one; ``examples`` are their components by name."""
    methods = {name: build(component, ALGORITHMS.load) for name, component in examples.items()}
    numbers = {name: str(number) for number, name in enumerate(methods, start=1)}
    width = max(len(name) for name in methods)
    yield " ".join([" " * (width + 3), *(number.rjust(2) for number in numbers.values())])
    for name, method in methods.items():
        signs = [_verdict(method, _second(other, method)).sign.rjust(2) for other in methods.values()]
        yield " ".join([numbers[name].rjust(2), name.ljust(width), *signs])
    yield ""
    yield from (f"{sign}  {meaning}" for sign, meaning in SIGNS.items())


def reasons(examples: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Return as a table in Markdown why two methods are ordered or refused; pairs without an order have no row."""
    methods = [build(component, ALGORITHMS.load) for component in examples.values()]
    yield "| methods | verdict |"
    yield "| --- | --- |"
    for one, other in combinations_with_replacement(methods, 2):
        verdict = _verdict(one, _second(other, one))
        if verdict.sign not in _UNORDERED:
            yield f"| `{one.name}`, `{other.name}` | {verdict.words} |"


def _second(other: Algorithm[Any], method: Algorithm[Any]) -> Algorithm[Any]:
    """Return the other method under a name of its own."""
    if other.name != method.name:
        return other
    return type(other).model_validate({**dict(other), "id": f"{other.name}_2"})


def _verdict(one: Algorithm[Any], other: Algorithm[Any]) -> Fit:
    inputs = _inputs(one, other)
    try:
        pairs = [pair for listed in ([one, other], [other, one]) for pair in _plan(listed, inputs=inputs).pairs]
    except CompositionError as error:
        faults = [f"refused, `{fault.code}`: {fault.message}. Fix: {fault.fix}" for fault in error.faults]
        return Fit("x", "; ".join(faults))
    if not pairs:
        return Fit(".", "fits: they act at different moments")
    if pairs[0].rule == "commuting":
        return Fit("=", "fits: they commute, so both lists give one plan")
    if pairs[0].outcome == "as listed":
        return Fit("L", f"fits, in the order of the list: {pairs[0].reason}")
    sign = "<" if pairs[0].first.partition(".")[0] == one.identity else ">"
    return Fit(sign, f"fits: `{pairs[0].first}` first, by the rule {pairs[0].rule} ({pairs[0].reason})")
