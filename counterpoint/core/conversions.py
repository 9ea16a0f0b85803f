"""Steps that the checker inserts by itself when kinds must change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.core.batch import Batch
from counterpoint.core.effects import Edit, Form, TransformEffect
from counterpoint.core.errors import DataError
from counterpoint.core.kinds import DENSE, INDEX, MULTI_HOT, Kind, Task

__all__ = ["CONVERSIONS", "Conversion", "check_classes", "check_counted", "dense_targets", "route"]


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
    return _rows(target.long(), num_classes, ignore_index, dtype)


def _rows(indices: Tensor, num_classes: int, ignore_index: int, dtype: torch.dtype) -> Tensor:
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
        torch._assert_async(~wrong.any(), f"a target {why}")
    elif wrong.any():
        raise DataError(f"target {indices[wrong][0].item()} {why}")


def _all_within(indices: Tensor, num_classes: int) -> bool:
    low, high = indices.aminmax() if indices.numel() else (indices.new_zeros(()), indices.new_zeros(()))
    return int(low) >= 0 and int(high) < num_classes


@dataclass(frozen=True)
class Conversion:
    """A change of kind that loses nothing, with the function that does it."""

    name: str
    effect: TransformEffect
    source: Kind
    target: Kind
    convert: Callable[[Tensor, int, int], Tensor]
    """Called with the targets, the number of classes and the ignored index."""
    final: bool = False
    """Whether it is made for the loss alone, behind every other step, and leaves no position ignored.

    Such a conversion needs one target for each sample, not one for each position.
    """

    def __call__(self, batch: Batch, ignore_index: int) -> Batch:
        """Return the batch with its targets converted."""
        return batch.with_targets(self.convert(batch.targets, batch.num_classes or 0, ignore_index))


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
        torch._assert_async(~ignored.any(), why)
    elif ignored.any():
        raise DataError(f"{why}; the first is sample {ignored.nonzero()[0].item()}")


def route(
    task: Task, needs: Sequence[Set[Kind]], gives: Set[Kind], accepts: Set[Kind], start: Kind
) -> Iterator[Conversion]:
    """Yield the conversions of a field, in running order, that lead from its first kind to those that are needed.

    ``needs`` are the kinds that each edit takes, ``gives`` those that edits give; ``accepts`` is what the loss takes of
    the field, empty for any.
    """
    at, wanted = start, set() if gives & accepts else set(accepts)
    usable = [conversion for conversion in CONVERSIONS if not (conversion.final and task.positions)]
    for conversion in usable:
        if conversion.source != at:
            continue
        further = {other.target for other in usable if other.source == conversion.target}
        by_loss = bool(wanted) and at not in wanted and bool(wanted & {conversion.target, *further})
        by_edit = any(at not in kinds and conversion.target in kinds for kinds in needs) and not conversion.final
        if by_edit or (by_loss and conversion.target not in gives):
            yield conversion
        if by_edit or by_loss:
            at = conversion.target


def _converted(targets: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Turn targets dense whose class indices were looked at when the batch came in."""
    if targets.is_floating_point():
        return dense_targets(targets, num_classes)
    return _rows(targets.long(), num_classes, ignore_index, torch.float32)


def _as_labels(targets: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Take the probability of each class as a label between 0 and 1."""
    return targets


CONVERSIONS = (
    Conversion(
        "dense_targets",
        TransformEffect("dense_targets", {INDEX.field: Edit(frozenset({INDEX}), gives=DENSE, form=Form.SELECT)}),
        INDEX,
        DENSE,
        _converted,
    ),
    Conversion(
        "multi_hot_targets",
        TransformEffect("multi_hot_targets", {DENSE.field: Edit(frozenset({DENSE}), gives=MULTI_HOT)}),
        DENSE,
        MULTI_HOT,
        _as_labels,
        final=True,
    ),
)
