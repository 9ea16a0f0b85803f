"""Compare the loss modules of a model with the plan's loss, and compose a plan with one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from inspect import signature
from typing import TypeVar

import torch
from torch import Tensor, nn

from counterpoint.composition import compose
from counterpoint.core.compat import Loss
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import DENSE, INDEX, MULTI_HOT, Kind
from counterpoint.core.faults import Fault
from counterpoint.core.run.plan import Plan
from counterpoint.losses import resolve_loss
from counterpoint.losses.resolve import known_losses

__all__ = ["compare_losses", "loss_modules", "with_loss"]

_CLASSES = 4
"""Classes, or outputs, of a probe where the plan states none."""
_ROWS = 256
"""Samples of one probe."""
_MOST = 16
"""Probes of class indices at most: with more classes than ``_ROWS * _MOST``, the weights of the last are not seen."""

_T = TypeVar("_T")
_Function = Callable[[Tensor, Tensor], Tensor]


def loss_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the submodules of a model that are losses of ``torch.nn`` or of this package, by their names."""
    known: tuple[type[nn.Module], ...] = (Loss, *known_losses())
    return {name: module for name, module in model.named_modules() if name and isinstance(module, known)}


def compare_losses(plan: Plan, modules: dict[str, nn.Module]) -> Iterator[Fault]:
    """Find that the loss modules of a model compute other numbers than the plan's loss; one that agrees is enough."""
    if plan.loss_spec is None:
        return
    found = {name: _difference(plan, module) for name, module in modules.items()}
    if not found or "" in found.values():
        return
    name, why = next(iter(found.items()))
    yield Fault(
        "loop-limit",
        f"the plan's loss is {plan.loss_spec.name}, the model has {name} = {modules[name]}, and training would ignore "
        f"one of them: {why}",
        f"state the loss once: compose(..., loss=model.{name}), or give the model the loss that compose was given",
        event=Event.LOSS,
    )


def with_loss(plan: Plan, loss: nn.Module) -> Plan:
    """Return the plan of the same methods and facts with a loss; raises ``CompositionError`` if they do not fit."""
    facts = plan.facts
    return compose(
        [member.algorithm for member in plan.members],
        loss=loss,
        task=facts.task,
        num_classes=facts.num_classes,
        inputs=facts.inputs,
        batch_size=facts.batch_size,
        steps_per_epoch=facts.clock.steps_per_epoch,
        max_duration=None if facts.clock.total is None else f"{facts.clock.total}ba",
        seed=facts.seed,
        compile=plan.backend is not None,
        model_inputs=facts.model_inputs,
        microbatches=facts.microbatches,
        contract=plan.contract.value,
    )


def _difference(plan: Plan, module: nn.Module) -> str:
    """Return in words how a loss module differs from the plan's loss; empty if it does not.

    Both are run on random outputs and on targets of the kinds that the plan's loss may get. A module of this package or
    of ``torch.nn`` is compared in its exact form; another one on the first kind of target that it takes. One of other
    arguments than outputs and targets is not compared.
    """
    try:
        signature(module.forward).bind(None, None)
    except TypeError:
        return ""
    copied = copy.deepcopy(module)
    known = _tried(resolve_loss, copied)
    if isinstance(known, Exception):
        return str(known)
    if known is not None:
        kinds = _kinds(plan)
        return next(filter(None, (_compared(plan, known.function, kind) for kind in kinds)), "")
    found = [_compared(plan, copied, kind) for kind in _kinds(plan)]
    return next((why for why in found if not why.startswith(_RAISES)), found[0])


_RAISES = "it raises"


def _kinds(plan: Plan) -> list[Kind]:
    """Return the kinds of target that the plan's loss may get, that of the task first."""
    assert plan.loss_spec is not None
    own = plan.facts.task.targets
    kinds = {own, *(kind for step in plan.steps for kind in step.after.values())} & plan.loss_spec.accepts
    return sorted(kinds, key=lambda kind: (kind != own, kind.name))


def _compared(plan: Plan, other: _Function, kind: Kind) -> str:
    assert plan.loss_spec is not None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for outputs, targets, right in _probes(plan, kind):
            found = _tried(other, outputs, targets)
            if isinstance(found, Exception):
                return f"{_RAISES} {type(found).__name__} on {kind} targets ({found})"
            if not isinstance(found, Tensor) or found.shape != right.shape:
                return f"on {kind} targets its result has another shape"
            if not torch.allclose(found.to(right.dtype), right, rtol=1e-4, atol=1e-5, equal_nan=True):
                value, wanted = (tensor.flatten()[0].item() for tensor in (found, right))
                return f"on some {kind} targets it gives {value:.4g} where the plan's gives {wanted:.4g}"
    return ""


def _tried(function: Callable[..., _T], *given: object) -> _T | Exception:
    """Return what a function returns, or the error that it raises."""
    try:
        return function(*given)
    except Exception as error:  # noqa: BLE001  # it runs a module of the user's, which may raise anything
        return error


def _probes(plan: Plan, kind: Kind) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give outputs and targets that the plan's loss takes, and that loss."""
    assert plan.loss_spec is not None
    loss = plan.loss_spec.function
    count = plan.facts.num_classes or plan.loss_spec.classes or _CLASSES
    positions = (2,) if plan.facts.task.name == "segmentation" else ()
    for targets in _targets(kind, count, positions, plan.loss_spec.ignore_index):
        raw = torch.randn(len(targets), count, *positions)
        for outputs in (raw, raw.log_softmax(1), raw.softmax(1)):
            right = _tried(loss, outputs, targets)
            if isinstance(right, Tensor):
                yield outputs, targets, right
                break


def _targets(kind: Kind, count: int, positions: tuple[int, ...], ignored: int) -> Iterator[Tensor]:
    size = min(max(2 * count, 6), _ROWS)
    if kind == INDEX:
        for part in torch.split(torch.arange(max(count, size)), size)[:_MOST]:
            labels = (part % count).view(-1, *[1] * len(positions)).repeat(1, *positions)
            yield labels
            yield labels.index_fill(0, torch.tensor([0]), ignored)
    elif kind == DENSE:
        yield torch.randn(size, count, *positions).softmax(1)
    elif kind == MULTI_HOT:
        yield torch.rand(size, count).round()
    else:
        yield torch.randn(size, count)
