"""Validate a batch against the facts that the user stated."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from counterpoint.core.arguments import flag
from counterpoint.core.declare.batch import Batch, Inputs
from counterpoint.core.declare.kinds import BYTES, DENSE, IMAGES, INDEX, MULTI_HOT, TOKENS, Axis, Field, Kind
from counterpoint.core.declare.targets import check_classes, check_counted
from counterpoint.core.errors import DataError
from counterpoint.core.plan.data import PlanData
from counterpoint.core.tensors.checks import DTYPES, INTEGER, check_tensor, is_writable

__all__ = [
    "MASS_ERROR",
    "check_batch",
    "check_masses",
    "check_targets",
    "check_values",
    "given_batch",
    "input_tensors",
    "masses",
]

CHANNELS = (1, 3, 4)
"""Numbers of channels of a picture."""

MASS_ERROR = 1e-3
"""How far the mass of a dense row may be from 0 or 1: what half precision leaves."""


def given_batch(plan: PlanData, inputs: Inputs, targets: Tensor, *, donate: bool = False) -> Batch:
    """Return the batch that a caller gave, checked; raises ``DataError`` if it is not what was stated of it."""
    facts = plan.facts
    first, *further = (inputs,) if _is_plain(inputs) else input_tensors(inputs)
    found = targets if _is_plain(targets) and targets.device == first.device else check_targets(targets, first)
    writable = donate is not False and flag("donate", donate) and _are_writable(first, *further)
    kinds = (facts.inputs, facts.task.targets, facts.task.name, facts.num_classes)
    return check_batch(plan, Batch(first, found, *kinds, writable, tuple(further), given_targets=found))


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether a value needs no further look: a dense tensor of torch's own class, and of a dtype to compute with."""
    return (
        type(value) is Tensor
        and value.layout is torch.strided
        and value.dtype in DTYPES
        and not (value.is_quantized or value.is_nested)
    )


def _are_writable(*tensors: Tensor) -> bool:
    """Whether donated tensors can be written to, and what is written into one does not show in another."""
    apart = len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)
    return apart and all(map(is_writable, tensors))


def input_tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the input tensors that a caller gave; raises ``DataError`` for anything but tensors on one device."""
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(given, tuple) or not given or not all(isinstance(tensor, Tensor) for tensor in given):
        fix = ": give torch.as_tensor(inputs)" if isinstance(inputs, np.ndarray) else ""
        raise DataError(f"inputs are a tensor, or a tuple of tensors, not {type(inputs).__name__}{fix}")
    devices = {str(tensor.device): None for tensor in given}
    if len(devices) > 1:
        raise DataError(f"input tensors lie on {', '.join(devices)}: move them to one device")
    for tensor in given:
        check_tensor("inputs", tensor)
    return given


def check_targets(targets: object, inputs: Tensor) -> Tensor:
    """Return targets that are a tensor on the device of the inputs; raises ``DataError`` for anything else."""
    found = check_tensor("targets", targets)
    if found.device != inputs.device:
        raise DataError(f"targets lie on {found.device} and inputs on {inputs.device}: move them to one device")
    return found


def check_batch(plan: PlanData, batch: Batch) -> Batch:
    """Validate a batch; return it with the real kind of its targets.

    Where class indices are expected, dense targets (N, C) are accepted too, unless the loss cannot take them. Raises
    ``DataError``. Values are checked only on the CPU, to avoid synchronisation with another device.
    """
    for inputs in (batch.inputs, *batch.further):
        if inputs.ndim == 0 or batch.targets.ndim == 0 or len(inputs) != len(batch.targets):
            raise DataError(
                f"inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(batch.targets.shape)} are no "
                "batch: their first axes must be equally long"
            )
        _check_inputs(inputs, batch.inputs_kind)
    if batch.further:
        _check_several(plan, batch)
    if batch.targets_kind == INDEX:
        if not batch.targets.is_floating_point():
            _check_indices(plan, batch)
            if plan.steps and plan.steps[-1].final:
                _check_counted(plan, batch)
            return batch
        batch = _given_dense(plan, batch)
    elif not batch.targets.is_floating_point():
        raise DataError(
            f"{batch.task} takes {batch.targets_kind} targets, which are floating, not {batch.targets.dtype}"
        )
    check_values(batch.targets, batch.targets_kind, batch.num_classes)
    if batch.targets_kind == DENSE:
        _check_dense_axes(batch)
        check_masses(batch.targets)
        _check_counted(plan, batch)
    return batch


def _check_dense_axes(batch: Batch) -> None:
    """Check that dense targets have positions where the task has some."""
    axes = 4 if batch.inputs_kind in IMAGES else None
    wanted = axes if batch.task == "segmentation" else 2 if batch.task == "multiclass" else None
    if wanted is not None and batch.targets.ndim != wanted:
        form = "(N, C, H, W)" if wanted == 4 else "(N, C)"
        raise DataError(
            f"dense targets of {batch.task} are {form}, not of shape {tuple(batch.targets.shape)}; state the task that "
            "fits the data"
        )


def _check_counted(plan: PlanData, batch: Batch) -> None:
    """Check that no position is ignored if the targets become a kind without ignored positions."""
    for step in plan.steps:
        if step.final and plan.loss_spec is not None:
            check_counted(batch.targets, plan.ignore_index, plan.loss_spec.name, step.after[Field.TARGETS])


def _given_dense(plan: PlanData, batch: Batch) -> Batch:
    converts = any(step.inserted for step in plan.steps)
    if not converts and plan.loss_spec is not None and DENSE not in plan.loss_spec.accepts:
        raise DataError(
            f"targets of dtype {batch.targets.dtype} are dense, and the loss {plan.loss_spec.name} takes class indices"
        )
    if batch.targets.ndim < 2:
        raise DataError(
            f"targets of dtype {batch.targets.dtype} and shape {tuple(batch.targets.shape)}: class indices are "
            "integers of shape (N) or (N, positions), dense targets floating of shape (N, C) or (N, C, positions)"
        )
    return replace(batch, targets_kind=DENSE)


def _check_inputs(inputs: Tensor, kind: Kind) -> None:
    if kind in IMAGES and (inputs.ndim != 4 or 0 in inputs.shape[1:]):
        raise DataError(f"{kind} inputs are (N, C, H, W), not {tuple(inputs.shape)}")
    if kind in IMAGES and inputs.shape[3] in CHANNELS and _has_channels_last(inputs):
        raise DataError(
            f"{kind} inputs are (N, C, H, W), and {tuple(inputs.shape)} looks like (N, H, W, C): give "
            "inputs.permute(0, 3, 1, 2)"
        )
    expected = {BYTES: inputs.dtype == torch.uint8, TOKENS: inputs.dtype in INTEGER}
    if not expected.get(kind, kind not in IMAGES or inputs.is_floating_point()):
        raise DataError(f"{kind} inputs cannot have dtype {inputs.dtype}; {kind.meaning}")


def _has_channels_last(inputs: Tensor) -> bool:
    """Whether the last axis alone is as short as the channels of a picture: no image is so narrow and has so many."""
    _, first, second, last = inputs.shape
    return last in CHANNELS and first > 4 and second > 4


def _check_several(plan: PlanData, batch: Batch) -> None:
    """Check that several input tensors can get the same edits, with draws that are made for the first of them."""
    shapes = [tuple(inputs.shape[1:]) for inputs in batch.all_inputs]
    for step in plan.steps:
        edits = [effect.edits[Field.INPUTS] for effect in step.effects if Field.INPUTS in effect.edits]
        within = any((edit.acts | edit.varies) - {Axis.SAMPLE} for edit in edits)
        if within and len(set(shapes)) > 1:
            raise DataError(
                f"{step.name} edits positions or channels in the same way in every input tensor, and their samples "
                f"have the shapes {', '.join(map(str, shapes))}: give tensors of one shape, or name "
                "fewer of them as inputs"
            )


def _check_indices(plan: PlanData, batch: Batch) -> None:
    positions = batch.task == "segmentation"
    on_pixels = positions and batch.inputs_kind in IMAGES
    fits = batch.targets.ndim == 3 if on_pixels else (batch.targets.ndim > 1) is positions
    if not fits or batch.targets.dtype == torch.bool or batch.targets.is_complex():
        form = "(N, H, W)" if on_pixels else "(N, positions)" if positions else "(N)"
        fix = "state the task that fits the data"
        if _are_rows(batch):
            fix = "rows of classes are given as indices, targets.argmax(1), or as probabilities, targets.float()"
        raise DataError(
            f"{batch.task} takes integer class indices of shape {form}, not {batch.targets.dtype} of shape "
            f"{tuple(batch.targets.shape)}; {fix}"
        )
    if batch.targets.device.type == "cpu" and batch.targets.numel() and batch.num_classes is not None:
        low, high = batch.targets.aminmax()
        if int(low) >= 0 and int(high) < batch.num_classes:
            return  # a closer look is for ignored positions and for errors
    if batch.num_classes is not None:
        check_classes(batch.targets.long(), batch.num_classes, plan.ignore_index)


def _are_rows(batch: Batch) -> bool:
    """Whether integer targets have a class axis, as one-hot rows have."""
    return batch.targets.ndim > 1 and batch.targets.shape[1] == batch.num_classes


def check_values(targets: Tensor, kind: Kind, num_classes: int | None) -> None:
    """Check that dense or multi-hot targets have their shape, and values that are finite, not negative, not too big."""
    if kind not in (DENSE, MULTI_HOT):
        return
    if num_classes is not None and (targets.ndim < 2 or targets.shape[1] != num_classes):
        raise DataError(
            f"{kind} targets for {num_classes} classes are (N, {num_classes}, ...), not {tuple(targets.shape)}"
        )
    if targets.device.type != "cpu" or targets.numel() == 0:
        return
    wrong = f"{kind} targets must be finite and at least 0; found"
    if not torch.isfinite(targets).all():
        raise DataError(f"{wrong} {targets[~torch.isfinite(targets)][0].item()}")
    if targets.min() < 0:
        raise DataError(f"{wrong} {targets.min().item()}")
    if kind == MULTI_HOT and targets.max() > 1:
        raise DataError(f"multi_hot targets are at most 1; found {targets.max().item()}")


def check_masses(targets: Tensor) -> None:
    """Check that each dense row has mass 1, or 0."""
    if targets.device.type != "cpu":
        return
    mass = masses(targets)
    wrong = torch.minimum(mass.abs(), (mass - 1).abs()) > MASS_ERROR
    if wrong.any():
        raise DataError(
            f"a dense row has mass {mass[wrong][0].item():g}; it must be 1, or 0 where the position is ignored"
        )


def masses(targets: Tensor) -> Tensor:
    """Return the mass of each dense row, in float64."""
    return targets.sum(1, dtype=torch.float64)
