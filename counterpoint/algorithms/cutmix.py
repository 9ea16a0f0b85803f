"""CutMix: paste a box from a partner, and mix the targets by the pasted share of the area."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from counterpoint.algorithms.boxes import area, clipped_boxes, inside
from counterpoint.algorithms.mixup import mix
from counterpoint.core import Algorithm, Batch, BatchSpec, Law, Rng, transform
from counterpoint.core.errors import DataError
from counterpoint.core.kinds import IMAGES, MIXABLE, MIXING

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
    height, width = inputs.shape[-2:]
    mask = inside(boxes, height, width)[:, None]
    pasted = torch.where(mask, inputs[perm], inputs)
    if targets.ndim == 4:
        _check_positions(inputs, targets)
        return pasted, torch.where(mask, targets[perm], targets)
    kept = 1 - area(boxes).double() / (height * width)
    return pasted, mix(targets, kept if len(kept) > 1 else kept[0], perm)


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

    alpha: float = Field(default=1.0, ge=0, description="both parameters of Beta(alpha, alpha); 0 pastes nothing")
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
        inputs, targets = cutmix(batch.inputs, batch.targets, draws.boxes, draws.perm)
        return replace(batch, inputs=inputs, targets=targets)
