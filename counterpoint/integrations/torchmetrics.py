"""An accuracy for edited targets, as a metric of torchmetrics'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from counterpoint.core.errors import DataError

__all__ = ["ExpectedAccuracy"]


class ExpectedAccuracy(Metric):
    """Share of the targets that the predicted classes have, exact on mixed and smoothed targets.

    Of a sample that is 0.7 of one class and 0.3 of another, a prediction of the first is right by 0.7. On class indices
    it is the accuracy over all samples (``average="micro"``). ``update(outputs, targets)`` takes logits or
    probabilities (N, C) or (N, C, positions), and class indices (N) or (N, positions) or dense targets of the shape of
    the outputs. Positions of ``ignore_index``, and dense rows of zeros, do not count. ``compute()`` is NaN before
    anything has counted. Raises ``DataError`` for targets of another shape.

    >>> accuracy = ExpectedAccuracy()
    >>> accuracy(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.7, 0.3], [0.5, 0.5]]))
    tensor(0.6000)
    >>> accuracy(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, -100]))
    tensor(1.)
    >>> accuracy.compute()
    tensor(0.7333)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    total: Tensor

    def __init__(self, *, ignore_index: int = -100, **options: Any) -> None:
        super().__init__(**options)
        self.ignore_index = ignore_index
        for name in ("right", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        predicted = outputs.argmax(1)
        if targets.is_floating_point():
            _check(outputs, targets, outputs.shape)
            right, counts = targets.gather(1, predicted.unsqueeze(1)), targets
        else:
            _check(outputs, targets, predicted.shape)
            counts = targets != self.ignore_index
            right = (predicted == targets) & counts
        self.right += right.sum(dtype=torch.float64)
        self.total += counts.sum(dtype=torch.float64)

    def compute(self) -> Tensor:
        """Return the share over all batches, in float32."""
        return (self.right / self.total).float()


def _check(outputs: Tensor, targets: Tensor, wanted: torch.Size) -> None:
    if targets.shape != wanted:
        raise DataError(
            f"targets of shape {tuple(targets.shape)} and dtype {targets.dtype} do not fit outputs of shape "
            f"{tuple(outputs.shape)}: give class indices {tuple(outputs.shape[:1] + outputs.shape[2:])}, or dense "
            "targets of the shape of the outputs"
        )
