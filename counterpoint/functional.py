"""The methods' pure functions in one place: what is drawn is passed in, and the class axis is 1."""

from __future__ import annotations

from counterpoint.algorithms.averaging import moving_average
from counterpoint.algorithms.cutmix import cutmix
from counterpoint.algorithms.cutout import cutout
from counterpoint.algorithms.label_smoothing import smooth_labels, smooth_multi_hot
from counterpoint.algorithms.mixup import mixup
from counterpoint.algorithms.sam import sam_perturbation
from counterpoint.core.conversions import dense_targets

__all__ = [
    "cutmix",
    "cutout",
    "dense_targets",
    "mixup",
    "moving_average",
    "sam_perturbation",
    "smooth_labels",
    "smooth_multi_hot",
]
