"""Small methods for the tests of the checker and the engine: they declare much and do little."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor

import counterpoint as cp
from counterpoint import UnknownNameError
from counterpoint.core import Facts, Terms, compose
from counterpoint.core.declare.kinds import TASKS
from counterpoint.core.plan.schedule import Clock


class Scale(cp.Algorithm[None], name="scale"):
    """An affine map of each channel."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs * 2 + 1)


class Recolor(cp.Algorithm[None], name="recolor"):
    """A nonlinear map of each pixel's channels."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RECOLOR)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs.square())


class Hole(cp.Algorithm[None], name="hole"):
    """A constant corner."""

    value: float = 0.0

    def declared(self) -> cp.Declaration:
        return self.declaration.refine("apply", cp.Field.INPUTS, fills=self.value)

    @cp.transform(inputs=cp.IMAGES, law=cp.Law.FILL)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        inputs = batch.inputs.clone()
        inputs[..., :2, :2] = self.value
        return batch.with_inputs(inputs)


class Blend(cp.Algorithm[None], name="blend"):
    """The mean of each sample and its neighbour."""

    @cp.transform(inputs=cp.CONTINUOUS, targets=cp.MIXABLE, law=cp.Law.CONVEX, claims=cp.MIXING)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        halved = batch.with_inputs((batch.inputs + batch.inputs.roll(1, 0)) / 2)
        return halved.with_targets((batch.targets + batch.targets.roll(1, 0)) / 2)


class Shrink(cp.Algorithm[None], name="shrink"):
    """Every other pixel."""

    @cp.transform(
        inputs=cp.Edit(cp.IMAGES, acts=frozenset({cp.Axis.POSITION}), form=cp.Form.SELECT, resizes=True),
    )
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs[..., ::2, ::2])


class Normal(cp.Algorithm[None], name="normal"):
    """Bytes to normalised floats."""

    @cp.transform(inputs=cp.Edit(frozenset({cp.BYTES}), gives=cp.NORMALIZED, form=cp.Form.AFFINE))
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs / 127.5 - 1)


class Peek(cp.Algorithm[None], name="peek"):
    """Edits targets, after a look at the unedited inputs."""

    @cp.transform(targets=cp.MIXABLE, law=cp.Law.REDISTRIBUTE, reads="inputs", unedited=True)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch


class Trace(cp.Algorithm[None], name="trace"):
    """Writes down when its hooks run."""

    def init(self, model: Any) -> dict[str, Tensor]:
        return {}

    @cp.before(cp.Event.UPDATE, writes="gradients")
    def early(self, state: object, scope: cp.Scope) -> None:
        LOG.append(f"{self.identity}:before-update")

    @cp.after(cp.Event.UPDATE, reads="parameters")
    def late(self, state: object, scope: cp.Scope) -> None:
        LOG.append(f"{self.identity}:after-update")

    @cp.around(cp.Event.EVALUATION, writes="parameters", restores="parameters")
    def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        LOG.append(f"{self.identity}:enter")
        outcome = yield
        LOG.append(f"{self.identity}:leave {type(outcome.error).__name__ if outcome.error else 'well'}")


class Twice(cp.Algorithm[None], name="twice"):
    """Runs the closure twice."""

    @cp.replace(cp.Event.STEP, writes=("parameters", "gradients"), claims=cp.OPTIMIZER_STEP)
    def run_twice(self, state: object, scope: cp.Scope, run: Callable[[], Tensor]) -> Tensor:
        first = run()
        run()
        return first


LOG: list[str] = []
METHODS = {method.name: method for method in (Scale, Recolor, Hole, Blend, Shrink, Normal, Peek, Trace, Twice)}


def resolve(name: str) -> type[cp.Algorithm[Any]]:
    """Look up one of the methods above."""
    if name not in METHODS:
        raise UnknownNameError(f"no method {name!r}")
    return METHODS[name]


def check(
    algorithms: list[object],
    *,
    inputs: cp.Kind = cp.IMAGE,
    task: str = "multiclass",
    num_classes: int | None = 4,
    strict_order: bool = False,
    loss: cp.LossSpec | None = None,
    clock: Clock | None = None,
) -> cp.Plan:
    """Compose by the core alone, without a registry."""
    facts = Facts(TASKS[task], inputs, num_classes, clock=clock or Clock(10, 100))
    return compose(algorithms, resolve=resolve, facts=facts, loss=loss, strict_order=strict_order, terms=Terms.PYTHON)


def codes(*args: Any, **settings: Any) -> list[str]:
    """Return the codes of the faults that composing finds."""
    try:
        check(*args, **settings)
    except cp.CompositionError as error:
        return [fault.code for fault in error.faults]
    return []
