"""Helpers of the losses over classes: checks, weights along the class axis, and the denominator of a mean."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from counterpoint.core.errors import DataError
from counterpoint.losses.checks import (
    check_weight,
    checked_reduction,
    common_dtype,
    require_float_labels,
    require_float_outputs,
)

__all__ = ["along_classes", "each_sample", "mass", "reduced", "require_dense", "sample_losses", "total", "weighed"]


def require_dense(outputs: Tensor, targets: Tensor, weight: Tensor | None, loss: str) -> None:
    """Raise ``DataError`` unless the tensors are of one shape with a class axis, and of the dtypes allowed."""
    check_weight(weight)
    require_float_outputs(outputs, loss)
    require_float_labels(targets, loss, "class probabilities")
    if outputs.shape != targets.shape or outputs.ndim < 2:
        raise DataError(
            f"{loss}: outputs have shape {tuple(outputs.shape)} and dense targets {tuple(targets.shape)}; both must "
            "be the same, (N, C) or (N, C, d1, ...). Class indices, without the class axis, must be integers"
        )
    if weight is not None and weight.shape != outputs.shape[1:2]:
        raise DataError(
            f"{loss}: weight has shape {tuple(weight.shape)}; {outputs.shape[1]} classes need ({outputs.shape[1]},)"
        )


def along_classes(weight: Tensor, dense: Tensor) -> Tensor:
    """Return class weights of shape (C, 1, ...), which broadcast along axis 1 of dense targets."""
    return weight.to(dense.dtype).reshape(-1, *[1] * (dense.ndim - 2))


def reduced(losses: Tensor, weighted: Tensor, reduction: str) -> Tensor:
    """Reduce the losses of positions; the mean divides by the sum of the weighted targets."""
    match checked_reduction(reduction):
        case "none":
            return losses
        case "sum":
            return losses.sum()
        case "mean":
            return losses.sum() / weighted.sum()


def weighed(weight: Tensor | None) -> int | None:
    """Return the number of classes that a weight is for; ``None`` without one."""
    return None if weight is None else weight.numel()


def total(targets: Tensor, weight: Tensor | None = None, ignore_index: int = -100) -> Tensor:
    """Return what the mean divides by: the weighted mass of dense targets, or the weights of the indices that count.

    >>> import torch
    >>> total(torch.tensor([0, 1, -100]), torch.tensor([1.0, 2.0]), -100)
    tensor(3.)
    """
    if targets.is_floating_point():
        dense = targets.to(common_dtype(targets, weight))
        return (dense if weight is None else dense * along_classes(weight, dense)).sum()
    indices = targets.long()  # compared in uint8, an ignored index of -100 would be class 156
    kept = indices != ignore_index
    dtype = common_dtype(weight)
    if weight is None:
        return kept.sum().to(dtype)
    # An ignored index may be out of range, so the weight of class 0 is looked up instead.
    return (weight.to(dtype)[indices.where(kept, 0)] * kept).sum()


def mass(targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Return how much each position counts, (N, d1, ...): the sum of a dense row; 1 for an index, 0 if ignored."""
    if targets.is_floating_point():
        return targets.to(common_dtype(targets)).sum(1)
    return (targets.long() != ignore_index).float()


def each_sample(losses: Tensor, masses: Tensor) -> Tensor:
    """Average the losses of positions, (N, d1, ...), over those of each sample that count; a sample of none has 0.

    >>> import torch
    >>> each_sample(torch.tensor([[1.0, 3.0], [5.0, 0.0], [0.0, 0.0]]), torch.tensor([[1, 1], [1, 0], [0, 0]]))
    tensor([2., 5., 0.])
    """
    summed, counted = (values.unsqueeze(-1).flatten(1).sum(1) for values in (losses, masses))
    return summed / counted.masked_fill(counted == 0, 1)


def sample_losses(run: Callable[..., Tensor], outputs: Tensor, targets: Tensor, *, ignore_index: int) -> Tensor:
    """Return the loss of each sample, (N), by ``each_sample``, of ``run(outputs, targets, reduction="none")``."""
    return each_sample(run(outputs, targets, reduction="none"), mass(targets, ignore_index))
