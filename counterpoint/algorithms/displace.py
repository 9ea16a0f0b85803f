"""Edits of geometry, one strength for each image, as Pillow's ``Image.transform`` makes them.

Images are (N, C, H, W) of any dtype. Each pixel takes the value of the nearest one of the source; where the source has
none it becomes 0. Places are computed in fixed point, as in Pillow, so that every device picks the same pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["affine", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"]

_ONE = 1 << 16


def affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Give each pixel (x, y) the value at ``(a x + b y + c, d x + e y + f)``, for matrices (a, b, c, d, e, f), (N, 6).

    The middle of the pixel at the upper left is (0.5, 0.5).

    >>> affine(torch.tensor([[[[1, 2, 3]]]]), torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0]]))
    tensor([[[[2, 3, 0]]]])
    """
    height, width = images.shape[2:]
    a, b, c, d, e, f = matrices.double().view(-1, 6, 1, 1).unbind(1)
    rows = torch.arange(height, device=images.device).view(-1, 1)
    columns = torch.arange(width, device=images.device)
    x = (_fixed(a) * columns + _fixed(b) * rows + _fixed(c + (a + b) / 2)) >> 16
    y = (_fixed(d) * columns + _fixed(e) * rows + _fixed(f + (d + e) / 2)) >> 16
    within = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    places = torch.where(within, y * width + x, 0).flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, places).view(images.shape)
    return moved.masked_fill_(~within.unsqueeze(1), 0)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its middle, counter-clockwise by ``degrees`` (N).

    >>> rotate(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([90]))
    tensor([[[[2, 4],
              [1, 3]]]])
    """
    angle = degrees.double().deg2rad()
    cosine, sine = angle.cos(), angle.sin()
    x, y = images.shape[3] / 2, images.shape[2] / 2
    return affine(
        images,
        torch.stack([cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y], dim=-1),
    )


def shear_x(images: Tensor, factor: Tensor) -> Tensor:
    """Move each row to the left by ``factor`` (N) times its distance from the upper border.

    >>> shear_x(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([0.9]))
    tensor([[[[1, 2],
              [4, 0]]]])
    """
    return affine(images, _matrices(factor, place=1))


def shear_y(images: Tensor, factor: Tensor) -> Tensor:
    """Move each column up by ``factor`` (N) times its distance from the left border.

    >>> shear_y(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([0.9]))
    tensor([[[[1, 4],
              [3, 0]]]])
    """
    return affine(images, _matrices(factor, place=3))


def translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    """Move each image to the left by a number of ``pixels`` (N).

    >>> translate_x(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([-1]))
    tensor([[[[0, 1],
              [0, 3]]]])
    """
    return affine(images, _matrices(pixels, place=2))


def translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    """Move each image up by a number of ``pixels`` (N).

    >>> translate_y(torch.tensor([[[[1, 2], [3, 4]]]]), torch.tensor([1]))
    tensor([[[[3, 4],
              [0, 0]]]])
    """
    return affine(images, _matrices(pixels, place=5))


def _matrices(strength: Tensor, *, place: int) -> Tensor:
    """Return identity matrices with one number replaced."""
    # Created on the device: a copy from the host would wait for it.
    matrices = torch.eye(2, 3, dtype=torch.float64, device=strength.device).flatten().repeat(len(strength), 1)
    matrices[:, place] = strength.double()
    return matrices


def _fixed(number: Tensor) -> Tensor:
    return (number * _ONE + 0.5).floor().long()
