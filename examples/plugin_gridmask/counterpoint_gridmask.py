"""GridMask for Counterpoint: drop a regular grid of squares from every image.

Chen, Liu, Zhao and Jia, GridMask Data Augmentation, 2020, https://arxiv.org/abs/2001.04086.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from counterpoint import IMAGES, Algorithm, Batch, BatchSpec, Declaration, Law, Rng, transform
from counterpoint import Field as Part

__all__ = ["Grid", "GridMask", "grid_mask", "mask_images"]


@dataclass(frozen=True)
class Grid:
    """The grid of each of N images, in pixels.

    ``period`` (N) int64 is the side of a unit, ``kept`` (N) int64 the width of the stripes kept in it, ``offset``
    (N, 2) int64 where the first unit begins, down and right, and ``angle`` (N) float32 by how much the grid is turned
    about the centre of the image, in radians.
    """

    period: Tensor
    kept: Tensor
    offset: Tensor
    angle: Tensor


def grid_mask(grid: Grid, height: int, width: int) -> Tensor:
    """Return which pixels the grids keep: bool, (N, 1, height, width).

    Each unit keeps a stripe of ``kept`` rows and one of ``kept`` columns and drops the square that is left, of side
    ``period - kept``. A turned grid is sampled at the nearest pixel.

    >>> one = Grid(torch.tensor([3]), torch.tensor([1]), torch.tensor([[0, 1]]), torch.zeros(1))
    >>> grid_mask(one, 3, 6)[0, 0].int()
    tensor([[1, 1, 1, 1, 1, 1],
            [0, 1, 0, 0, 1, 0],
            [0, 1, 0, 0, 1, 0]], dtype=torch.int32)
    """
    device = grid.period.device
    rows = torch.arange(height, device=device).view(1, height, 1) - (height - 1) / 2
    columns = torch.arange(width, device=device).view(1, 1, width) - (width - 1) / 2
    cosine, sine = torch.cos(grid.angle).view(-1, 1, 1), torch.sin(grid.angle).view(-1, 1, 1)
    down = cosine * rows - sine * columns + (height - 1) / 2
    right = sine * rows + cosine * columns + (width - 1) / 2
    return (_in_stripe(down, grid, 0) | _in_stripe(right, grid, 1)).unsqueeze(1)


def _in_stripe(place: Tensor, grid: Grid, axis: int) -> Tensor:
    period, kept, offset = (t.view(-1, 1, 1) for t in (grid.period, grid.kept, grid.offset[:, axis]))
    return (torch.round(place).long() - offset) % period < kept


def mask_images(images: Tensor, keep: Tensor, fill: float = 0.0) -> Tensor:
    """Return the images (N, C, H, W), of any dtype, with ``fill`` wherever ``keep`` (N, 1, H, W) is false.

    >>> mask_images(torch.ones(1, 1, 1, 2), torch.tensor([[[[True, False]]]]))
    tensor([[[[1., 0.]]]])
    """
    return images.masked_fill(~keep, fill)


class GridMask(Algorithm[Grid], name="gridmask"):
    """Drop a regular grid of squares from every image (Chen et al., 2020, https://arxiv.org/abs/2001.04086).

    Each image has a grid of its own. Its unit is ``d`` pixels long, ``d`` uniform over the whole numbers from ``d_min``
    to ``d_max``, end exclusive; of each unit stripes of ``ceil(ratio * d)`` pixels are kept, and the square of side
    ``d - ceil(ratio * d)`` is dropped, so that about ``2 * ratio - ratio ** 2`` of the pixels stay. The grid begins
    anywhere in a unit and is turned by an angle uniform between 0 and ``rotate`` degrees. The defaults are those of the
    authors' code for ImageNet at 224 pixels, where ``p`` grows to 0.8; the squares must fit your images.

    >>> GridMask(d_min=2, d_max=5, ratio=0.5).d_max
    5
    """

    d_min: int = Field(default=96, ge=2, description="smallest unit of the grid, in pixels")
    d_max: int = Field(default=224, ge=3, description="unit that is not reached any more, in pixels")
    ratio: float = Field(default=0.6, gt=0, lt=1, description="width of the kept stripes, as a share of a unit")
    rotate: float = Field(default=360.0, ge=0, le=360, description="largest angle of the grid, in degrees")
    fill: float = Field(default=0.0, description="value of a dropped pixel; 0 is the mean only of normalised images")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.d_min >= self.d_max:
            raise ValueError(f"d_min must be below d_max; they are {self.d_min} and {self.d_max}")
        return self

    def declared(self) -> Declaration:
        """Return the declaration with the constant of this instance."""
        return self.declaration.refine("apply", Part.INPUTS, fills=self.fill)

    def draw(self, batch: BatchSpec, rng: Rng) -> Grid:
        period = rng.integers(self.d_min, self.d_max, (batch.size,))
        kept = torch.ceil(period.double() * self.ratio - 1e-9).long()  # 0.07 * 100 is just above 7 in floats
        offset = (rng.uniform(size=(batch.size, 2)) * period.unsqueeze(1)).long()
        angle = rng.uniform(0.0, math.radians(self.rotate), (batch.size,)).float()
        return Grid(period, kept, offset, angle)

    @transform(inputs=IMAGES, law=Law.FILL)
    def apply(self, batch: Batch, grid: Grid) -> Batch:
        keep = grid_mask(grid, *batch.inputs.shape[-2:])
        return batch.with_inputs(mask_images(batch.inputs, keep, self.fill))
