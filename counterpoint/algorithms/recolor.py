"""Edits of colours and contrast, one strength for each image, as Pillow's ``ImageOps`` and ``ImageEnhance`` make them.

Images are (N, C, H, W), uint8 from 0 to 255 or floating from 0 to 1; results keep the dtype. On bytes they round as
Pillow does. Of floats only ``posterize`` and ``equalize``, which are about levels, take the nearest of 256 levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from counterpoint.core.errors import DataError

__all__ = [
    "auto_contrast",
    "brightness",
    "color",
    "contrast",
    "equalize",
    "gray",
    "posterize",
    "sharpness",
    "solarize",
]

_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""The weights of red, green and blue in ITU-R 601 luma, in the 16 bits that Pillow has for them."""


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch each channel of each image so that its darkest value becomes black and its brightest white.

    >>> auto_contrast(torch.tensor([[[[0.25, 0.5, 0.75]]]])).flatten()
    tensor([0.0000, 0.5000, 1.0000])
    """
    values = images.double()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    # A number divided by a tensor would be rounded twice, and bytes would not come out as in Pillow.
    scale = torch.full_like(low, _white(images)) / torch.where(high > low, high - low, 1)
    return _restored(torch.where(high > low, values * scale - low * scale, values), images)


def equalize(images: Tensor) -> Tensor:
    """Give each channel of each image a histogram as flat as its levels allow.

    >>> equalize(torch.arange(0, 128, dtype=torch.uint8).repeat(8).view(1, 1, 32, 32)).max()
    tensor(255, dtype=torch.uint8)
    """
    levels = _levels(images).flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels))
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)
    table = torch.where(step > 0, table.clamp(max=255), torch.arange(256, device=images.device))
    return _of_levels(table.gather(2, levels).view(images.shape), images)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert every value of at least ``threshold``, (N), in the scale of bytes for floats too; 256 inverts none.

    >>> solarize(torch.tensor([[[[100, 200]]]], dtype=torch.uint8), torch.tensor([128]))
    tensor([[[[100,  55]]]], dtype=torch.uint8)
    """
    values, white = _values(images), _white(images)
    return _restored(torch.where(values < _each(threshold, values) * white / 255, values, white - values), images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the first ``bits``, (N) int64 from 0 to 8, of the 8 bits of every value.

    >>> posterize(torch.tensor([[[[100, 200]]]], dtype=torch.uint8), torch.tensor([1]))
    tensor([[[[  0, 128]]]], dtype=torch.uint8)
    """
    lost = (8 - bits.long()).view(-1, 1, 1, 1)
    return _of_levels(_levels(images) >> lost << lost, images)


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Move colours from grey (0) past their own (1), by ``factor`` (N). An image of one channel stays as it is.

    >>> color(torch.tensor([[[[1.0]], [[0.0]], [[0.0]]]]), torch.tensor([0.0])).flatten()
    tensor([0.2990, 0.2990, 0.2990])
    """
    return _blend(gray(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Move values from the mean grey of their image (0) past their own (1), by ``factor`` (N).

    >>> contrast(torch.tensor([[[[0.2, 0.6]]]]), torch.tensor([0.5])).flatten()
    tensor([0.3000, 0.5000])
    """
    mean = gray(images).double().mean((1, 2, 3), keepdim=True)
    mean = mean if images.is_floating_point() else (mean + 0.5).floor()
    return _blend(mean.to(_values(images).dtype), images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Move values from black (0) past their own (1), by ``factor`` (N).

    >>> brightness(torch.tensor([[[[0.2, 0.6]]]]), torch.tensor([2.0])).flatten()
    tensor([0.4000, 1.0000])
    """
    return _blend(_values(images).new_zeros(()), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Move values from those of a smoothed image (0) past their own (1), by ``factor`` (N).

    The smoothed value is a mean over 3×3 pixels, in which the middle one counts 5 times; values at the border stay.

    >>> dot = torch.tensor([[[[0, 0, 0], [0, 130, 0], [0, 0, 0]]]], dtype=torch.uint8)
    >>> sharpness(dot, torch.tensor([0.0]))[0, 0, 1]
    tensor([ 0, 50,  0], dtype=torch.uint8)
    """
    values = _values(images)
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * values[..., 1:-1, 1:-1]
    smooth = values.clone()
    smooth[..., 1:-1, 1:-1] = sums / 13 if images.is_floating_point() else (sums / 13 + 0.5).floor()
    return _blend(smooth, images, factor)


def gray(images: Tensor) -> Tensor:
    """Return the luma of images of 1 or 3 channels, (N, 1, H, W), float32 at least, in their scale.

    Raises ``DataError`` for another number of channels.

    >>> gray(torch.tensor([[[[255]], [[0]], [[0]]]], dtype=torch.uint8)).item()
    76.0
    """
    values = _values(images)
    if images.shape[1] == 1:
        return values
    if images.shape[1] != 3:
        raise DataError(f"grey is defined for images of 1 or 3 channels, not {images.shape[1]}")
    red, green, blue = (values[:, channel : channel + 1].double() * share for channel, share in enumerate(_LUMA))
    luma = red + green + blue
    return (luma if images.is_floating_point() else (luma + 0.5).floor()).to(values.dtype)


def _blend(other: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    values = _values(images)
    return _restored(other + _each(factor, values) * (values - other), images)


def _each(strength: Tensor, values: Tensor) -> Tensor:
    return strength.to(values.dtype).view(-1, 1, 1, 1)


def _white(images: Tensor) -> int:
    return 1 if images.is_floating_point() else 255


def _values(images: Tensor) -> Tensor:
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _restored(values: Tensor, images: Tensor) -> Tensor:
    """Return values in the dtype of the images, cut off at black and white; bytes drop what is behind the point."""
    return values.clamp(0, _white(images)).to(images.dtype)


def _levels(images: Tensor) -> Tensor:
    """Return the level of each value, int64 from 0 to 255; NaN has level 0.

    Raises ``DataError`` where a gradient is required, which levels do not have.
    """
    if images.requires_grad and torch.is_grad_enabled():
        raise DataError("posterize and equalize have no gradient, and the images require one: give images.detach()")
    if not images.is_floating_point():
        return images.long()
    return (_values(images) * 255).nan_to_num(0.0).round().clamp(0, 255).long()


def _of_levels(levels: Tensor, images: Tensor) -> Tensor:
    if not images.is_floating_point():
        return levels.to(images.dtype)
    return (levels.to(_values(images).dtype) / 255).to(images.dtype)
