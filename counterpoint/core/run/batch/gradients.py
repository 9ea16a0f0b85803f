"""Gradients through the batch steps of a plan: when they are tracked, and which steps have none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from counterpoint.core.declare.batch import Batch
from counterpoint.core.declare.kinds import Field
from counterpoint.core.errors import ContractError, DataError
from counterpoint.core.plan.data import PlanData

__all__ = ["check_tracked", "gradient_mode"]


def gradient_mode(plan: PlanData, batch: Batch) -> AbstractContextManager[object]:
    """Return the autograd mode in which a batch is edited: gradients are tracked only where a field requires them.

    Raises ``DataError`` naming a step that has no gradient with respect to such a field. A step that does not run on
    this batch is named too: it would run on another one.
    """
    required = [part for part, tensors in _fields(batch).items() if any(tensor.requires_grad for tensor in tensors)]
    if not required or not torch.is_grad_enabled():
        return torch.no_grad()
    for step in plan.steps:
        for effect in step.effects:
            for part in required:
                if part in effect.edits and not effect.edits[part].differentiable:
                    raise DataError(
                        f"{step.name} has no gradient with respect to {part.value}, and the {part.value} given require "
                        f"one: give {part.value}.detach(), or leave {step.name} out of the list"
                    )
    return nullcontext()


def check_tracked(name: str, before: Batch, after: Batch) -> None:
    """Raise ``ContractError`` where a step has cut off the gradient of a field that required one."""
    old, new = _fields(before), _fields(after)
    for part, tensors in old.items():
        for given, edited in zip(tensors, new[part], strict=True):
            if given.requires_grad and not edited.requires_grad:
                raise ContractError(
                    f"{name} cuts off the gradient of the {part.value}: compute with operations that autograd tracks, "
                    f"without detach, .data or NumPy, or declare {part.value}=Edit(..., differentiable=False)"
                )


def _fields(batch: Batch) -> dict[Field, tuple[Tensor, ...]]:
    return {Field.INPUTS: batch.all_inputs, Field.TARGETS: (batch.targets,)}
