"""The methods' pure functions in one place: draws are arguments, and the class axis is 1.

Arguments are checked: one of another type, dtype, shape or layout raises ``ArgumentError`` or ``DataError``. Values are
checked only on the CPU, to avoid synchronisation with another device.
"""

from __future__ import annotations

import math

from counterpoint.algorithms import arguments as _arguments
from counterpoint.algorithms import averaging, blurpool, displace, recolor, sam, selective_backprop
from counterpoint.algorithms import cutmix as _cutmix
from counterpoint.algorithms import cutout as _cutout
from counterpoint.algorithms import label_smoothing as _smoothing
from counterpoint.algorithms import mixup as _mixup
from counterpoint.algorithms import normalize as _normalize
from counterpoint.algorithms import trivial_augment as _trivial
from counterpoint.core.arguments import MOST
from counterpoint.core.declare import signatures as _check
from counterpoint.core.declare import targets as _targets
from counterpoint.core.tensors.checks import FLOATING

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

mixup = _check.checked(
    _mixup.mixup,
    inputs=_check.tensor(1, 2, 3, 4, 5, 6, 7, 8, dtypes=FLOATING),
    targets=_check.tensor(dtypes=FLOATING, rows_of="inputs"),
    lam=_check.share("inputs"),
    perm=_check.partner("inputs"),
)
cutmix = _check.checked(
    _cutmix.cutmix,
    inputs=_check.image(),
    targets=_check.tensor(dtypes=FLOATING, rows_of="inputs"),
    boxes=_check.boxes_in("inputs", 2),
    perm=_check.partner("inputs"),
)
cutout = _check.checked(
    _cutout.cutout, inputs=_check.image(), boxes=_check.boxes_in("inputs", 3), fill=_check.real(-math.inf, math.inf)
)
ignore_holes = _check.checked(
    _cutout.ignore_holes, targets=_check.image(*FLOATING), boxes=_check.boxes_in("targets", 3)
)
smooth_labels = _check.checked(
    _smoothing.smooth_labels, targets=_check.tensor(classes=True), smoothing=_check.real(0, 1)
)
smooth_multi_hot = _check.checked(
    _smoothing.smooth_multi_hot, targets=_check.tensor(dtypes=FLOATING), smoothing=_check.real(0, 1)
)
dense_targets = _check.checked(
    _targets.dense_targets,
    target=_check.tensor(),
    num_classes=_check.whole(1, 1 << 24),
    ignore_index=_check.whole(-MOST),
    dtype=_check.one_of(*FLOATING),
)
normalize = _check.checked(
    _normalize.normalize,
    inputs=_arguments.COLOURED,
    mean=_arguments.NUMBERS,
    std=_check.sequence(_check.real(1e-30, 1e30)),
    dtype=_arguments.floating_dtype,
    channels_last=_check.flags,
)

affine = _check.checked(displace.affine, images=_check.image(), matrices=_arguments.matrices)
rotate = _check.checked(displace.rotate, images=_check.image(), degrees=_check.each("images"))
shear_x = _check.checked(displace.shear_x, images=_check.image(), factor=_check.each("images"))
shear_y = _check.checked(displace.shear_y, images=_check.image(), factor=_check.each("images"))
translate_x = _check.checked(displace.translate_x, images=_check.image(), pixels=_check.each("images"))
translate_y = _check.checked(displace.translate_y, images=_check.image(), pixels=_check.each("images"))
auto_contrast = _check.checked(recolor.auto_contrast, images=_arguments.COLOURED)
equalize = _check.checked(recolor.equalize, images=_arguments.COLOURED)
solarize = _check.checked(recolor.solarize, images=_arguments.COLOURED, threshold=_check.each("images"))
posterize = _check.checked(recolor.posterize, images=_arguments.COLOURED, bits=_check.each("images", low=0, high=8))
color = _check.checked(recolor.color, images=_arguments.COLOURED, factor=_check.each("images"))
contrast = _check.checked(recolor.contrast, images=_arguments.COLOURED, factor=_check.each("images"))
brightness = _check.checked(recolor.brightness, images=_arguments.COLOURED, factor=_check.each("images"))
sharpness = _check.checked(recolor.sharpness, images=_arguments.COLOURED, factor=_check.each("images"))
trivial_augment = _check.checked(
    _trivial.trivial_augment,
    inputs=_arguments.COLOURED,
    samples=_arguments.by_operation,
    magnitudes=_arguments.by_operation,
    in_place=_check.flags,
)

blur_kernel = _check.checked(blurpool.blur_kernel, size=_check.whole(1, 1000))
blur2d = _check.checked(
    blurpool.blur2d,
    inputs=_check.image(*FLOATING),
    kernel=_arguments.kernel,
    stride=_arguments.stride,
    padding=_check.one_of("replicate", "reflect", "zeros"),
)
moving_average = _check.checked(
    averaging.moving_average,
    average=_check.tensor(dtypes=_arguments.AVERAGED),
    value=_check.tensor(dtypes=_arguments.AVERAGED, like="average"),
    decay=_check.real(0, 1),
    out=_arguments.like_average,
)
sam_perturbation = _check.checked(
    sam.sam_perturbation,
    weights=_check.sequence(_arguments.FLOATING_TENSOR, empty=True),
    gradients=_arguments.like_weights,
    rho=_check.real(0, math.inf),
    adaptive=_check.flags,
)
select_by_loss = _check.checked(
    selective_backprop.select_by_loss,
    losses=_check.tensor(1, dtypes=FLOATING),
    keys=_check.tensor(1, dtypes=FLOATING, like="losses"),
    keep=_check.whole(1, up_to="losses"),
    beta=_check.real(0, math.inf),
)
