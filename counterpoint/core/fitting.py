"""What a plan asks of a model, found before anything changes the model."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from counterpoint.core.errors import CompositionError
from counterpoint.core.events import Event
from counterpoint.core.faults import Fault
from counterpoint.core.plan import Plan

__all__ = ["check_model"]


def check_model(plan: Plan, model: nn.Module, *, has_optimizer: bool = False, outputs: Tensor | None = None) -> None:
    """Check that a model has what the methods of a plan need of it, and that its modules may still be changed.

    ``has_optimizer`` says that an optimizer holds the model's parameters already; ``outputs`` are what the model gave
    for some inputs, if it was run. Raises ``CompositionError`` with every fault at once; the model stays as it is.
    """
    leaves = [leaf for member in plan.members for leaf in member.leaves]
    faults = [fault for leaf in leaves for fault in leaf.algorithm.misfits(model)]
    if has_optimizer:
        faults += _late_surgery(plan)
    if outputs is not None:
        faults += _other_outputs(plan, outputs)
    if faults:
        raise CompositionError(faults)


def _late_surgery(plan: Plan) -> Iterator[Fault]:
    for name in dict.fromkeys(hook.name for hook in plan.hooks if hook.effect.event is Event.SETUP):
        yield Fault(
            "late-surgery",
            f"{name} changes the model's modules, and the optimizer has taken their parameters already",
            "make the engine first, then the optimizer, then set engine.optimizer",
            (name,),
            Event.SETUP,
        )


def _other_outputs(plan: Plan, outputs: Tensor) -> Iterator[Fault]:
    loss = plan.loss_spec
    if loss is None or loss.outputs is None:
        return
    wrong = loss.outputs.wrong(outputs)
    if wrong:
        message = f"the loss {loss.name} takes {loss.outputs.name} of the model, and {wrong}"
        yield Fault("loss-outputs", message, loss.outputs.fix, (loss.name,), Event.LOSS)
