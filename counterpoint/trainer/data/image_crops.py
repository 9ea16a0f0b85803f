"""Parts of images, and images as tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from counterpoint.core.declare.randomness import Rng

__all__ = ["Box", "centre_box", "random_box", "shift", "to_bytes", "to_tensor"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a part of an image, in pixels."""


def centre_box(width: int, height: int, share: float) -> Box:
    """Return the square in the middle of an image whose side is ``share`` of the image's shorter side.

    >>> centre_box(100, 80, 0.5)
    (30.0, 20.0, 70.0, 60.0)
    """
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def random_box(width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: Rng) -> Box:
    """Draw a part of an image.

    Its share of the area is uniform over ``scale``, its width / height log-uniform over ``ratio``. A part that would
    not fit is drawn again, ten times at most; then the largest square in the middle is taken (Szegedy et al., CVPR
    2015, https://arxiv.org/abs/1409.4842).
    """
    for _ in range(10):
        area = width * height * float(rng.uniform(*scale))
        aspect = math.exp(float(rng.uniform(math.log(ratio[0]), math.log(ratio[1]))))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = float(rng.uniform(0, width - w)), float(rng.uniform(0, height - h))
            return left, top, left + w, top + h
    return centre_box(width, height, 1.0)


def shift(image: Tensor, padding: int, fill: Tensor, rng: Rng) -> Tensor:
    """Shift an image (C, H, W) by up to ``padding`` pixels each way, uniformly.

    Empty pixels get the colour ``fill``, (C) of the image's dtype.
    """
    _, height, width = image.shape
    padded = fill[:, None, None].repeat(1, height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    top, left = rng.integers(0, 2 * padding + 1, (2,)).tolist()
    return padded[:, top : top + height, left : left + width].contiguous()


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB image into uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def to_bytes(colour: Sequence[float]) -> Tensor:
    """Return the uint8 numbers nearest to a colour whose channels range from 0 to 1.

    >>> to_bytes((0.485, 0.456, 1.5))
    tensor([124, 116, 255], dtype=torch.uint8)
    """
    return torch.tensor(colour).mul(255).round().clamp(0, 255).to(torch.uint8)
