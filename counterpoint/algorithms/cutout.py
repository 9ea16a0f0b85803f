"""CutOut: replace square regions of each image by a constant."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from counterpoint.algorithms.boxes import beyond, clipped_boxes, inside, slices
from counterpoint.algorithms.forms import as_bits, in_passes, one_by_one
from counterpoint.core import Algorithm, Batch, BatchSpec, Declaration, Edit, Form, Law, Rng, transform
from counterpoint.core.declare import kinds as K
from counterpoint.core.errors import DataError
from counterpoint.core.tensors.buffers import empty_like

__all__ = ["CutOut", "cutout", "ignore_holes"]


def cutout(inputs: Tensor, boxes: Tensor, *, fill: float = 0.0) -> Tensor:
    """Replace what lies inside any of the boxes by a constant.

    ``inputs`` is (N, C, H, W) of any dtype; ``boxes`` is (N or 1, K, 4), int64 XYXY within the image, ends exclusive;
    ``fill`` is in the scale of the inputs. Positions outside all boxes keep their bits.

    >>> cutout(torch.ones(1, 1, 2, 2), torch.tensor([[[0, 0, 1, 2]]]))
    tensor([[[[0., 1.],
              [0., 1.]]]])

    DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
    https://arxiv.org/abs/1708.04552
    """
    return fill_boxes(inputs, boxes, fill, in_place=False)


def fill_boxes(values: Tensor, boxes: Tensor, fill: float, *, in_place: bool) -> Tensor:
    """Return samples with a constant inside their boxes; with ``in_place``, ``values`` may be written to."""
    if in_passes(values):
        holes = inside(boxes, *values.shape[-2:])
        holes = holes if boxes.shape[1] == 1 else holes.any(1, keepdim=True)
        return values.masked_fill_(holes, fill) if in_place else values.masked_fill(holes, fill)
    if len(boxes) > 1 and not one_by_one(values, "fill"):
        return _fill_by_bits(values, boxes, fill, out=values if in_place else empty_like(values))
    out = values if in_place else empty_like(values).copy_(values)
    images = [out] if len(boxes) == 1 else out.unbind()
    for holes in boxes.unbind(1):
        for image, cut in zip(images, slices(holes), strict=True):
            image[cut].fill_(fill)
    return out


def _fill_by_bits(values: Tensor, boxes: Tensor, fill: float, *, out: Tensor) -> Tensor:
    """Keep the bits outside the boxes, and set those of the constant inside: masks of bits are faster than booleans."""
    bits = as_bits(values)
    kept = torch.ones((), dtype=bits.dtype).neg_()
    for holes in boxes.unbind(1):
        rows, columns = (outside.to(bits.dtype).neg_() for outside in beyond(holes, *values.shape[-2:]))
        kept = kept & (rows[:, None, :, None] | columns[:, None, None, :])
    torch.bitwise_and(bits, kept, out=as_bits(out))
    constant = as_bits(torch.full((), fill, dtype=values.dtype))
    if constant:
        as_bits(out).bitwise_or_(constant & ~kept)
    return out


def ignore_holes(targets: Tensor, boxes: Tensor) -> Tensor:
    """Ignore the positions inside any of the boxes: their rows become zero.

    ``targets`` is dense with a row for each pixel, (N, C, H, W); ``boxes`` is (N or 1, K, 4), int64 XYXY, ends
    exclusive. Rows outside all boxes keep their bits. Raises ``DataError`` for targets of another form.

    >>> ignore_holes(torch.ones(1, 1, 2, 2), torch.tensor([[[0, 0, 1, 2]]]))
    tensor([[[[0., 1.],
              [0., 1.]]]])
    """
    if not targets.is_floating_point() or targets.ndim != 4:
        raise DataError(f"masks are dense, (N, C, H, W), not {targets.dtype} of shape {tuple(targets.shape)}")
    return fill_boxes(targets, boxes, 0.0, in_place=False)


class CutOut(Algorithm[Tensor], name="cutout"):
    """Replace square regions of each image by a constant.

    Each of ``num_holes`` squares has the side ``int(length * min(H, W))`` and a centre that is uniform over the image;
    it is clipped at the border. Targets are not changed, except with ``masks="ignore"``: the hidden pixels of a
    segmentation are then ignored.

    >>> CutOut(length=0.25, fill=0.5, space="unit").fill
    0.5

    DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
    https://arxiv.org/abs/1708.04552
    """

    length: float = Field(default=0.5, gt=0, le=1, description="side of a hole, as a share of the image's shorter side")
    num_holes: int = Field(default=1, ge=1, le=10_000, description="holes in each image")
    per_sample: bool = Field(default=True, description="holes for each sample, instead of the same ones for the batch")
    fill: float = Field(
        default=0.0, ge=-1e30, le=1e30, description="the constant; 0 is the mean only of normalised images"
    )
    space: Literal["bytes", "unit", "normalized"] | None = Field(
        default=None, description="the scale in which fill is meant; by default that of the inputs, whatever it is"
    )

    masks: Literal["keep", "ignore"] = Field(
        default="keep", description="segmentation: whether the targets inside a hole stay, or are ignored"
    )

    @model_validator(mode="after")
    def _check_fill(self) -> CutOut:
        if self.space == "bytes" and not self._is_byte:
            raise ValueError(f"fill is {self.fill:g}, and bytes are whole numbers from 0 to 255")
        if self.space == "unit" and not 0 <= self.fill <= 1:
            raise ValueError(f"fill is {self.fill:g}, and values of unit images lie between 0 and 1")
        return self

    @property
    def _is_byte(self) -> bool:
        return self.fill.is_integer() and 0 <= self.fill <= 255

    def declared(self) -> Declaration:
        """Narrow the declaration to this fill, to images that can hold it, and to the edit of masks."""
        needs = K.IMAGES if self.space is None else frozenset(kind for kind in K.IMAGES if kind.name == self.space)
        needs = needs if self._is_byte else needs - {K.BYTES}
        varies = frozenset({K.Axis.SAMPLE, K.Axis.POSITION} if self.per_sample else {K.Axis.POSITION})
        declared = self.declaration.refine("apply", K.Field.INPUTS, needs=needs, varies=varies, fills=self.fill)
        if self.masks == "keep":
            return declared
        ignoring = Edit(frozenset({K.DENSE}), varies=varies, form=Form.LINEAR, fills=0.0)
        return declared.extend("apply", K.Field.TARGETS, ignoring).only("segmentation")

    def draw(self, batch: BatchSpec, rng: Rng) -> Tensor:
        """Draw the holes: boxes of shape (N or 1, num_holes, 4)."""
        height, width = batch.shape[-2:]
        size = (batch.size if self.per_sample else 1, self.num_holes)
        side = int(self.length * min(height, width))
        rows, columns = rng.integers(0, height, size), rng.integers(0, width, size)
        return clipped_boxes(rows, columns, side, side, height, width)

    @transform(inputs=K.IMAGES, law=Law.FILL)
    def apply(self, batch: Batch, boxes: Tensor) -> Batch:
        """Fill the holes."""
        if self.masks == "ignore":
            batch = batch.with_targets(self._ignored(batch, boxes))
        return batch.with_inputs(fill_boxes(batch.inputs, boxes, self.fill, in_place=batch.writable))

    def _ignored(self, batch: Batch, boxes: Tensor) -> Tensor:
        if batch.targets.shape[2:] != batch.inputs.shape[2:]:
            raise DataError(
                f"masks of shape {tuple(batch.targets.shape[2:])} do not lie on images of shape "
                f"{tuple(batch.inputs.shape[2:])}: {self.identity} with masks='ignore' needs a target for each pixel"
            )
        return ignore_holes(batch.targets, boxes)
