"""What each known loss accepts, and its exact form on dense targets.

Each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.losses.binary import (
        BinaryCrossEntropy,
        ThresholdedBCEWithLogitsLoss,
        binary_cross_entropy,
        binary_cross_entropy_with_logits,
    )
    from counterpoint.losses.cross_entropy import CrossEntropy, dense_cross_entropy
    from counterpoint.losses.focal import BinaryFocal, BinaryFocalLoss, Focal, FocalLoss, binary_focal_loss, focal_loss
    from counterpoint.losses.kl import KLDivergence, kl_divergence
    from counterpoint.losses.nll import NegativeLogLikelihood, dense_nll
    from counterpoint.losses.outputs import LOG_PROBABILITIES, LOGITS, PROBABILITIES
    from counterpoint.losses.regression import MeanAbsoluteError, MeanSquaredError, absolute_error, squared_error
    from counterpoint.losses.resolve import Loss, resolve_loss

__all__ = [
    "LOGITS",
    "LOG_PROBABILITIES",
    "PROBABILITIES",
    "BinaryCrossEntropy",
    "BinaryFocal",
    "BinaryFocalLoss",
    "CrossEntropy",
    "Focal",
    "FocalLoss",
    "KLDivergence",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "NegativeLogLikelihood",
    "ThresholdedBCEWithLogitsLoss",
    "absolute_error",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_focal_loss",
    "dense_cross_entropy",
    "dense_nll",
    "focal_loss",
    "kl_divergence",
    "resolve_loss",
    "squared_error",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.losses.binary": (
            "BinaryCrossEntropy",
            "ThresholdedBCEWithLogitsLoss",
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
        ),
        "counterpoint.losses.cross_entropy": ("CrossEntropy", "dense_cross_entropy"),
        "counterpoint.losses.focal": (
            "BinaryFocal",
            "BinaryFocalLoss",
            "Focal",
            "FocalLoss",
            "binary_focal_loss",
            "focal_loss",
        ),
        "counterpoint.losses.kl": ("KLDivergence", "kl_divergence"),
        "counterpoint.losses.nll": ("NegativeLogLikelihood", "dense_nll"),
        "counterpoint.losses.outputs": ("LOGITS", "LOG_PROBABILITIES", "PROBABILITIES"),
        "counterpoint.losses.regression": (
            "MeanAbsoluteError",
            "MeanSquaredError",
            "absolute_error",
            "squared_error",
        ),
        "counterpoint.losses.resolve": ("Loss", "resolve_loss"),
    },
)
