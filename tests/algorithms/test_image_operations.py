"""The edits of single images against Pillow, which the paper used, and against float64 loops.

On bytes all are equal to Pillow's, but for at most one level where an enhancement is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

import counterpoint as cp
import counterpoint.functional as CF
from tests.algorithms.naive_images import NAIVE

Pillow = Callable[[Image.Image, float], Image.Image]

SIZES = [(32, 32), (9, 14), (17, 6), (3, 3), (2, 5), (1, 1), (64, 48)]


def pictures(height: int, width: int, channels: int, count: int = 6) -> Tensor:
    """Return bytes: noise, narrow noise, gradients, one constant image, one of two levels."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    noise = torch.randint(256, (count, channels, height, width), generator=generator, dtype=torch.uint8)
    ramp = torch.linspace(0, 255, height * width).view(height, width).to(torch.uint8)
    noise[1] = noise[1] // 4 + 90
    noise[2] = ramp
    noise[3] = 77
    noise[4] = (noise[4] > 128).to(torch.uint8) * 100 + 20
    return noise


def to_pillow(image: Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))


def from_pillow(image: Image.Image) -> Tensor:
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


def moved(matrix: Callable[[float], tuple[float, ...]]) -> Pillow:
    return lambda image, v: image.transform(image.size, Image.Transform.AFFINE, matrix(v))


# By operation: our function, Pillow's, magnitudes to try, and by how many levels bytes may differ.
PILLOW: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Pillow, list[float], int]] = {
    "auto_contrast": (lambda x, _: CF.auto_contrast(x), lambda x, _: ImageOps.autocontrast(x), [0], 0),
    "equalize": (lambda x, _: CF.equalize(x), lambda x, _: ImageOps.equalize(x), [0], 0),
    "solarize": (CF.solarize, lambda x, v: ImageOps.solarize(x, int(v)), [0, 1, 100, 128, 255, 256], 0),
    "posterize": (CF.posterize, lambda x, v: ImageOps.posterize(x, int(v)), [1, 2, 3, 4, 5, 6, 7, 8], 0),
    "color": (CF.color, lambda x, v: ImageEnhance.Color(x).enhance(v), [0.01, 0.1, 0.7, 1.0, 1.36, 2.0], 1),
    "contrast": (CF.contrast, lambda x, v: ImageEnhance.Contrast(x).enhance(v), [0.01, 0.1, 0.7, 1.0, 1.36, 2.0], 1),
    "brightness": (
        CF.brightness,
        lambda x, v: ImageEnhance.Brightness(x).enhance(v),
        [0.01, 0.1, 0.7, 1.0, 1.36, 2.0],
        1,
    ),
    "sharpness": (CF.sharpness, lambda x, v: ImageEnhance.Sharpness(x).enhance(v), [0.01, 0.1, 0.7, 1.0, 1.36, 2.0], 1),
    "rotate": (CF.rotate, lambda x, v: x.rotate(v), [0, 1, -7, 30, 45, 77, -90, 90, 101, 135, -135], 0),
    "shear_x": (CF.shear_x, moved(lambda v: (1, v, 0, 0, 1, 0)), [0, 0.03, -0.3, 0.55, -0.99, 0.99], 0),
    "shear_y": (CF.shear_y, moved(lambda v: (1, 0, 0, v, 1, 0)), [0, 0.03, -0.3, 0.55, -0.99, 0.99], 0),
    "translate_x": (CF.translate_x, moved(lambda v: (1, 0, v, 0, 1, 0)), [0, 1, -3, 10, -32], 0),
    "translate_y": (CF.translate_y, moved(lambda v: (1, 0, 0, 0, 1, v)), [0, 1, -3, 10, -32], 0),
}
everyone = pytest.mark.parametrize("name", PILLOW)


@pytest.mark.slow
@everyone
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_as_in_pillow(name: str, channels: int) -> None:
    ours, theirs, magnitudes, levels = PILLOW[name]
    for size in SIZES:
        images = pictures(*size, channels)
        for magnitude in magnitudes:
            edited = ours(images, torch.full((len(images),), magnitude, dtype=torch.float64))
            assert edited.dtype == torch.uint8
            wanted = torch.stack([from_pillow(theirs(to_pillow(image), magnitude)) for image in images])
            assert (edited.int() - wanted.int()).abs().max() <= levels, (size, magnitude)


@pytest.mark.slow
@everyone
@pytest.mark.parametrize("channels", [1, 3])
def test_floats_are_as_in_loops(name: str, channels: int) -> None:
    ours, _, magnitudes, _ = PILLOW[name]
    images = pictures(9, 7, channels).double() / 255
    for magnitude in magnitudes:
        wanted = np.stack([NAIVE[name](image.numpy(), magnitude, 1) for image in images])
        for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
            edited = ours(images.to(dtype), torch.full((len(images),), magnitude, dtype=torch.float64))
            assert edited.dtype == dtype
            np.testing.assert_allclose(edited.numpy(), wanted, rtol=0, atol=error, err_msg=str(magnitude))


@everyone
def test_each_image_has_its_own_strength(name: str) -> None:
    ours, _, magnitudes, _ = PILLOW[name]
    several = (magnitudes * 6)[:6]
    for images in (pictures(9, 7, 3), pictures(9, 7, 3).float() / 255):
        together = ours(images, torch.tensor(several, dtype=torch.float64))
        for index, magnitude in enumerate(several):
            alone = ours(images[index : index + 1], torch.tensor([magnitude], dtype=torch.float64))
            assert torch.equal(together[index : index + 1], alone)


@everyone
def test_what_is_given_is_never_edited(name: str) -> None:
    ours, _, magnitudes, _ = PILLOW[name]
    for images in (pictures(5, 7, 3), pictures(5, 7, 3).float() / 255):
        before = images.clone()
        edited = ours(images, torch.full((len(images),), magnitudes[-1], dtype=torch.float64))
        edited.zero_()
        assert torch.equal(images, before)


@everyone
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    ours, _, magnitudes, _ = PILLOW[name]
    images = (pictures(9, 7, 3).float() / 255).to(dtype)
    strength = torch.full((len(images),), magnitudes[-1], dtype=torch.float64)
    assert torch.equal(ours(images, strength), ours(images.float(), strength).to(dtype))


def test_color_leaves_an_image_of_one_channel_as_it_is() -> None:
    images = pictures(5, 7, 1)
    assert torch.equal(CF.color(images, torch.full((6,), 0.2)), images)


def test_grey_of_other_numbers_of_channels_is_refused() -> None:
    for edit in (CF.color, CF.contrast):
        with pytest.raises(cp.DataError, match="1 or 3 channels, not 4"):
            edit(torch.zeros(1, 4, 2, 2), torch.ones(1))


def test_a_full_turn_in_small_steps_stays_in_the_image() -> None:
    image = torch.ones(1, 1, 8, 8)
    for degrees in range(0, 360, 15):
        turned = CF.rotate(image, torch.tensor([float(degrees)]))
        empty = int((turned == 0).sum())
        assert empty <= math.ceil(64 * (1 - math.pi / 4)), degrees
