"""CutMix: paste a box from a partner, and mix the targets by the pasted share of the area."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from counterpoint.algorithms.boxes import area, clipped_boxes, inside, slices
from counterpoint.algorithms.forms import (
    as_bits,
    from_front,
    gathered,
    in_passes,
    is_permutation,
    mark_written,
    one_by_one,
    partners,
)
from counterpoint.algorithms.mixup import mix
from counterpoint.core import Algorithm, Batch, BatchSpec, Law, Rng, transform
from counterpoint.core.declare.kinds import IMAGES, MIXABLE, MIXING
from counterpoint.core.errors import DataError
from counterpoint.core.tensors.buffers import empty_like

__all__ = ["CutMix", "Pasting", "cutmix"]


def cutmix(inputs: Tensor, targets: Tensor, boxes: Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Give each sample its partner's pixels inside a box, and mix the targets by the exact area.

    ``inputs`` is (N, C, H, W) of any dtype; ``targets`` is dense or otherwise floating, (N, ...): a sample whose box
    covers the share ``a`` of the image gets ``(1 - a) * y + a * y[perm]``. Targets with a position for each pixel,
    (N, C, H, W), take their partner's inside the box instead. ``boxes`` is (N or 1, 4), int64 XYXY within the image,
    ends exclusive; ``perm`` holds N int64 indices. Raises ``DataError`` for targets that are not floating, and for
    positions that are not those of the images.

    >>> x, y = cutmix(torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 2, 2), torch.eye(2),
    ...               torch.tensor([[0, 0, 1, 2]]), torch.tensor([1, 0]))
    >>> x[0, 0], y[0]
    (tensor([[1., 0.],
            [1., 0.]]), tensor([0.5000, 0.5000]))

    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019,
    https://arxiv.org/abs/1905.04899
    """
    return _cutmix(inputs, targets, boxes, from_front(perm), in_place=False)


def _cutmix(inputs: Tensor, targets: Tensor, boxes: Tensor, perm: Tensor, *, in_place: bool) -> tuple[Tensor, Tensor]:
    if targets.ndim == 4:
        _check_positions(inputs, targets)
        pasted = paste(targets, boxes, perm)
    else:
        kept = 1 - area(boxes).double() / (inputs.shape[-2] * inputs.shape[-1])
        pasted = mix(targets, kept if len(kept) > 1 else kept[0], perm)
    return paste(inputs, boxes, perm, in_place=in_place), pasted


def paste(values: Tensor, boxes: Tensor, perm: Tensor, *, in_place: bool = False) -> Tensor:
    """Return each sample with its partner's values inside its box; with ``in_place``, ``values`` may be written to.

    ``perm`` counts from the front.
    """
    if in_passes(values) or not one_by_one(values, "paste" if len(boxes) == 1 else "paste each"):
        return _paste_in_passes(values, boxes, perm, in_place=in_place)
    numbers = perm.tolist()
    in_place = in_place and is_permutation(numbers)
    out = values if in_place else empty_like(values).copy_(values)
    old, new, cuts = as_bits(values).numpy(), as_bits(out).numpy(), slices(boxes)
    if len(cuts) == 1:
        old, new, cuts = old[cuts[0]], new[cuts[0]], [(...,)]
    for number, partner in partners(list(old), numbers, np.copy, in_place=in_place):
        cut = cuts[number % len(cuts)]
        new[number][cut] = partner[cut]
    if in_place:
        mark_written(out)
    return out


def _paste_in_passes(values: Tensor, boxes: Tensor, perm: Tensor, *, in_place: bool) -> Tensor:
    if in_passes(values) or len(boxes) > 1:
        others = values[perm] if in_passes(values) else gathered(values, perm)
        return torch.where(inside(boxes, *values.shape[-2:])[:, None], others, values)
    (cut,) = slices(boxes)
    pasted = values if in_place else empty_like(values).copy_(values)
    pasted[cut] = values[cut].index_select(0, perm)
    return pasted


def _check_positions(inputs: Tensor, targets: Tensor) -> None:
    if targets.shape[2:] != inputs.shape[2:]:
        raise DataError(
            f"targets have the positions {tuple(targets.shape[2:])} and images {tuple(inputs.shape[2:])}: "
            "one box cannot be cut out of both; give targets of the images' height and width"
        )


class Pasting(NamedTuple):
    """The boxes, (N or 1, 4) int64 XYXY, and the partners, N int64 indices."""

    boxes: Tensor
    perm: Tensor


class CutMix(Algorithm[Pasting], name="cutmix"):
    """Paste a box from a partner into each image, and mix the targets by the pasted share of the area.

    The box has the area ``1 - lam`` of the image, ``lam ~ Beta(alpha, alpha)``, before it is clipped at the border; its
    centre is uniform. The targets follow the exact area after clipping. ``alpha = 0`` is the identity.

    >>> CutMix(alpha=1.0).per_sample
    False

    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019,
    https://arxiv.org/abs/1905.04899
    """

    alpha: float = Field(
        default=1.0, ge=0, le=1e12, description="both parameters of Beta(alpha, alpha); 0 pastes nothing"
    )
    per_sample: bool = Field(default=False, description="a box for each sample, instead of one for the batch")

    def draw(self, batch: BatchSpec, rng: Rng) -> Pasting:
        """Draw the boxes and the partners."""
        height, width = batch.shape[-2:]
        count = (batch.size if self.per_sample else 1,)
        kept = rng.beta(self.alpha, self.alpha, count) if self.alpha else torch.ones(count, dtype=torch.float64)
        side = (1 - kept).sqrt()
        boxes = clipped_boxes(
            rng.integers(0, height, count),
            rng.integers(0, width, count),
            (side * height).long(),
            (side * width).long(),
            height,
            width,
        )
        return Pasting(boxes, rng.permutation(batch.size))

    @transform(inputs=IMAGES, targets=MIXABLE, law=Law.PASTE, claims=MIXING)
    def apply(self, batch: Batch, draws: Pasting) -> Batch:
        """Paste the boxes and mix the targets."""
        if self.alpha == 0:
            return batch
        if batch.task == "segmentation":
            _check_positions(batch.inputs, batch.targets)
        inputs, targets = _cutmix(batch.inputs, batch.targets, draws.boxes, draws.perm, in_place=batch.writable)
        return replace(batch, inputs=inputs, targets=targets)
