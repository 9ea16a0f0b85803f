"""Check a model against the requirements of a plan, before anything changes the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.errors import CompositionError
from counterpoint.core.faults import Fault
from counterpoint.core.plan.data import PlanData

__all__ = ["check_model", "misfits"]


def check_model(
    plan: PlanData, model: nn.Module, *, has_optimizer: bool = False, outputs: Tensor | None = None
) -> None:
    """Check that a model has what the methods of a plan need of it, and that its modules may still be changed.

    ``has_optimizer`` says that an optimizer holds the model's parameters already; ``outputs`` are what the model gave
    for some inputs, if it was run. Raises ``CompositionError`` with every fault at once; the model stays as it is.
    """
    faults = misfits([member.algorithm for member in plan.members], plan.loss_spec, model, outputs)
    if has_optimizer:
        faults += _late_surgery(plan)
    if faults:
        raise CompositionError(faults)


def misfits(
    algorithms: Iterable[Algorithm[Any]], loss: LossSpec | None, model: nn.Module, outputs: Tensor | None = None
) -> list[Fault]:
    """Find the requirements of methods and a loss that a model does not meet; they need not fit each other.

    ``outputs`` are what the model gave for some inputs, if it was run.
    """
    faults = [fault for algorithm in algorithms for leaf in _leaves(algorithm) for fault in leaf.misfits(model)]
    if loss is not None and outputs is not None:
        faults += _other_outputs(loss, outputs)
    return faults


def _leaves(algorithm: Algorithm[Any]) -> Iterator[Algorithm[Any]]:
    branches = algorithm.alternatives()
    for branch, _ in branches:
        yield from _leaves(branch)
    if not branches:
        yield algorithm


def _late_surgery(plan: PlanData) -> Iterator[Fault]:
    for name in dict.fromkeys(hook.name for hook in plan.hooks if hook.effect.event is Event.SETUP):
        yield Fault(
            "late-surgery",
            f"{name} changes the model's modules, and the optimizer has taken their parameters already",
            "make the engine first, then the optimizer, then set engine.optimizer",
            (name,),
            Event.SETUP,
        )


def _other_outputs(loss: LossSpec, outputs: Tensor) -> Iterator[Fault]:
    if loss.outputs is not None and (wrong := loss.outputs.wrong(outputs)):
        message = f"the loss {loss.name} takes {loss.outputs.name} of the model, and {wrong}"
        yield Fault("loss-outputs", message, loss.outputs.fix, (loss.name,), Event.LOSS)
