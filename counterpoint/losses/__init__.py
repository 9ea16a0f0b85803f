"""What each known loss accepts, and its exact form on dense targets."""

from __future__ import annotations

from counterpoint.losses.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from counterpoint.losses.cross_entropy import dense_cross_entropy
from counterpoint.losses.registered import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from counterpoint.losses.regression import squared_error
from counterpoint.losses.resolve import Loss, resolve_loss

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Loss",
    "MeanSquaredError",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "dense_cross_entropy",
    "resolve_loss",
    "squared_error",
]
