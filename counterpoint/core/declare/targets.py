"""Class indices, dense and multi-hot targets: the change of one into the other, and the checks of their values."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from counterpoint.core.compat import assert_on_device
from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.batch import Batch
from counterpoint.core.declare.decorators import transform
from counterpoint.core.declare.effects import Edit, Form
from counterpoint.core.declare.kinds import DENSE, INDEX, MULTI_HOT, Kind
from counterpoint.core.errors import DataError

__all__ = ["DenseTargets", "MultiHotTargets", "check_classes", "check_counted", "class_rows", "dense_targets"]


def dense_targets(
    target: Tensor, num_classes: int, *, ignore_index: int = -100, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Turn class indices into class probabilities; an ignored position becomes an all-zero row.

    ``target`` holds integers, (N) or (N, positions); the result has the class axis second, (N, C) or
    (N, C, positions). Targets that are floating already, with ``num_classes`` on axis 1, are returned in at least
    ``dtype``. Raises ``DataError`` for a class index outside ``0 … num_classes - 1`` that is not ``ignore_index`` (for
    CPU tensors; elsewhere the device raises, so that nothing waits), and for shapes that fit neither form.

    >>> dense_targets(torch.tensor([1, -100]), 3)
    tensor([[0., 1., 0.],
            [0., 0., 0.]])
    """
    if target.is_floating_point():
        if target.ndim < 2 or target.shape[1] != num_classes:
            raise DataError(
                f"dense targets of shape {tuple(target.shape)} for {num_classes} classes: the class axis is the "
                f"second, (N, {num_classes}) or (N, {num_classes}, positions)"
            )
        return target.to(torch.promote_types(target.dtype, dtype))
    if target.dtype == torch.bool or target.is_complex() or target.ndim < 1:
        raise DataError(f"class indices are integers of shape (N) or (N, positions), not {target.dtype} {target.shape}")
    check_classes(target.long(), num_classes, ignore_index)
    return class_rows(target.long(), num_classes, ignore_index, dtype)


def class_rows(indices: Tensor, num_classes: int, ignore_index: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Turn class indices whose values were checked into class probabilities, as ``dense_targets`` does."""
    counted = indices != ignore_index
    if torch.compiler.is_compiling():  # comparing becomes part of what follows, where scattering is a pass of its own
        classes = torch.arange(num_classes, device=indices.device).view(-1, *[1] * (indices.ndim - 1))
        return ((indices.unsqueeze(1) == classes) & counted.unsqueeze(1)).to(dtype)
    rows = torch.zeros(indices.shape[0], num_classes, *indices.shape[1:], dtype=dtype, device=indices.device)
    return rows.scatter_(1, torch.where(counted, indices, 0).unsqueeze(1), counted.unsqueeze(1).to(dtype))


def check_classes(indices: Tensor, num_classes: int, ignore_index: int) -> None:
    """Check that every position that counts holds a class.

    Raises ``DataError`` for CPU tensors; on another device the device itself asserts, so that nothing waits for it.
    """
    if indices.device.type == "cpu" and _all_within(indices, num_classes):
        return
    wrong = (indices != ignore_index) & ((indices < 0) | (indices >= num_classes))
    why = f"is no class: {num_classes} classes are 0 to {num_classes - 1}, an ignored position is {ignore_index}"
    if indices.device.type != "cpu":
        assert_on_device(~wrong.any(), f"a target {why}")
    elif wrong.any():
        raise DataError(f"target {indices[wrong][0].item()} {why}")


def _all_within(indices: Tensor, num_classes: int) -> bool:
    low, high = indices.aminmax() if indices.numel() else (indices.new_zeros(()), indices.new_zeros(()))
    return int(low) >= 0 and int(high) < num_classes


def check_counted(targets: Tensor, ignore_index: int, loss: str, kind: Kind) -> None:
    """Check that no position is ignored: in the kind that the loss takes, a row of zeros counts as negatives.

    ``targets`` are class indices, (N), or dense, (N, C). Raises ``DataError`` for CPU tensors; on another device the
    device itself asserts.
    """
    dense = targets.is_floating_point()
    ignored = (targets == 0).all(1) if dense else targets == ignore_index
    named = "a row of zeros" if dense else f"target {ignore_index}"
    why = f"{named} marks an ignored position, and in the {kind} targets that the loss {loss} takes it would count as "
    why += "a negative for each class: leave such samples out, or use a loss over classes, such as cross_entropy"
    if targets.device.type != "cpu":
        assert_on_device(~ignored.any(), why)
    elif ignored.any():
        raise DataError(f"{why}; the first is sample {ignored.nonzero()[0].item()}")


class DenseTargets(Algorithm[None], name="dense_targets"):
    """Turn class indices into class probabilities; an ignored position becomes an all-zero row."""

    ignore_index: int = -100

    @transform(targets=Edit(frozenset({INDEX}), gives=DENSE, form=Form.SELECT))
    def apply(self, batch: Batch, draws: None) -> Batch:
        """Convert the targets; class indices were checked when the batch was validated."""
        classes = batch.num_classes or 0
        if batch.targets.is_floating_point():
            return replace(batch, targets=dense_targets(batch.targets, classes), targets_kind=DENSE)
        rows = class_rows(batch.targets.long(), classes, self.ignore_index)
        return replace(batch, targets=rows, targets_kind=DENSE)


class MultiHotTargets(Algorithm[None], name="multi_hot_targets"):
    """Take the probability of each class as a label between 0 and 1."""

    @transform(targets=Edit(frozenset({DENSE}), gives=MULTI_HOT))
    def apply(self, batch: Batch, draws: None) -> Batch:
        """Return the batch; its kind alone changes."""
        return batch
