"""The methods' pure functions in one place: what is drawn is passed in, and the class axis is 1."""

from __future__ import annotations

from counterpoint.algorithms.averaging import moving_average
from counterpoint.algorithms.blurpool import blur2d, blur_kernel
from counterpoint.algorithms.cutmix import cutmix
from counterpoint.algorithms.cutout import cutout, ignore_holes
from counterpoint.algorithms.displace import affine, rotate, shear_x, shear_y, translate_x, translate_y
from counterpoint.algorithms.label_smoothing import smooth_labels, smooth_multi_hot
from counterpoint.algorithms.mixup import mixup
from counterpoint.algorithms.normalize import normalize
from counterpoint.algorithms.recolor import (
    auto_contrast,
    brightness,
    color,
    contrast,
    equalize,
    posterize,
    sharpness,
    solarize,
)
from counterpoint.algorithms.sam import sam_perturbation
from counterpoint.algorithms.selective_backprop import select_by_loss
from counterpoint.algorithms.trivial_augment import trivial_augment
from counterpoint.core.conversions import dense_targets

__all__ = [
    "affine",
    "auto_contrast",
    "blur2d",
    "blur_kernel",
    "brightness",
    "color",
    "contrast",
    "cutmix",
    "cutout",
    "dense_targets",
    "equalize",
    "ignore_holes",
    "mixup",
    "moving_average",
    "normalize",
    "posterize",
    "rotate",
    "sam_perturbation",
    "select_by_loss",
    "sharpness",
    "shear_x",
    "shear_y",
    "smooth_labels",
    "smooth_multi_hot",
    "solarize",
    "translate_x",
    "translate_y",
    "trivial_augment",
]
