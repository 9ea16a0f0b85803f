"""What each known loss accepts, and its exact form on dense targets.

Each name is imported when it is first used, because a plan needs none of the settings that a config can name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.losses.binary import (
        ThresholdedBCEWithLogitsLoss,
        binary_cross_entropy,
        binary_cross_entropy_with_logits,
    )
    from counterpoint.losses.cross_entropy import dense_cross_entropy
    from counterpoint.losses.focal import BinaryFocalLoss, FocalLoss, binary_focal_loss, focal_loss
    from counterpoint.losses.kl import kl_divergence
    from counterpoint.losses.nll import dense_nll
    from counterpoint.losses.outputs import LOG_PROBABILITIES, LOGITS, PROBABILITIES
    from counterpoint.losses.registered import (
        BinaryCrossEntropy,
        BinaryFocal,
        CrossEntropy,
        Focal,
        KLDivergence,
        MeanAbsoluteError,
        MeanSquaredError,
        NegativeLogLikelihood,
    )
    from counterpoint.losses.regression import absolute_error, squared_error
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
            "ThresholdedBCEWithLogitsLoss",
            "binary_cross_entropy",
            "binary_cross_entropy_with_logits",
        ),
        "counterpoint.losses.cross_entropy": ("dense_cross_entropy",),
        "counterpoint.losses.focal": ("BinaryFocalLoss", "FocalLoss", "binary_focal_loss", "focal_loss"),
        "counterpoint.losses.kl": ("kl_divergence",),
        "counterpoint.losses.nll": ("dense_nll",),
        "counterpoint.losses.outputs": ("LOGITS", "LOG_PROBABILITIES", "PROBABILITIES"),
        "counterpoint.losses.registered": (
            "BinaryCrossEntropy",
            "BinaryFocal",
            "CrossEntropy",
            "Focal",
            "KLDivergence",
            "MeanAbsoluteError",
            "MeanSquaredError",
            "NegativeLogLikelihood",
        ),
        "counterpoint.losses.regression": ("absolute_error", "squared_error"),
        "counterpoint.losses.resolve": ("Loss", "resolve_loss"),
    },
)
