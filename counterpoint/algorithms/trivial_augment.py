"""TrivialAugment: one random operation for each image, of random strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from counterpoint.algorithms import displace, recolor
from counterpoint.core import Algorithm, Batch, BatchSpec, Edit, Form, Rng, transform
from counterpoint.core.declare.kinds import BYTES, UNIT, Axis
from counterpoint.core.errors import DataError

__all__ = ["OPERATIONS", "SPACES", "Augmenting", "Space", "TrivialAugment", "magnitudes", "trivial_augment"]

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda images, _: images,
    "auto_contrast": lambda images, _: recolor.auto_contrast(images),
    "equalize": lambda images, _: recolor.equalize(images.detach()),
    "rotate": displace.rotate,
    "solarize": recolor.solarize,
    "color": recolor.color,
    "posterize": lambda images, bits: recolor.posterize(images.detach(), bits),
    "contrast": recolor.contrast,
    "brightness": recolor.brightness,
    "sharpness": recolor.sharpness,
    "shear_x": displace.shear_x,
    "shear_y": displace.shear_y,
    "translate_x": displace.translate_x,
    "translate_y": displace.translate_y,
}
"""The operations of the paper, each called with images (n, C, H, W) and a magnitude for each, (n).

Those that work on levels, ``equalize`` and ``posterize``, are constant almost everywhere: their gradient is zero.
"""


@dataclass(frozen=True)
class Space:
    """How strong operations are at most.

    ``translate`` is in pixels, ``rotate`` in degrees, ``dropped_bits`` of the 8 of a value; ``enhance`` holds the
    smallest and the largest factor of color, contrast, brightness and sharpness.
    """

    shear: float
    translate: float
    rotate: float
    dropped_bits: float
    enhance: tuple[float, float]


SPACES = {
    "standard": Space(shear=0.3, translate=10, rotate=30, dropped_bits=4, enhance=(0.1, 1.9)),
    "wide": Space(shear=0.99, translate=32, rotate=135, dropped_bits=6, enhance=(0.01, 2.0)),
}
"""The strengths of the paper's two spaces (its code's ``fixed_standard`` and ``wide_standard``)."""


def magnitudes(operation: str, strength: Tensor, sign: Tensor, space: Space) -> Tensor:
    """Return what an operation takes for strengths between 0 and 1, (n) float64, and signs, -1 or 1, (n).

    Degrees, pixels, bits and thresholds are whole numbers, rounded towards no effect as in the paper's code. Where an
    operation takes nothing, they are 0.

    >>> magnitudes("rotate", torch.tensor([0.5, 1.0]), torch.tensor([1, -1]), SPACES["standard"])
    tensor([ 15., -30.])
    """
    if operation in ("identity", "auto_contrast", "equalize"):
        return torch.zeros_like(strength)
    if operation in ("shear_x", "shear_y"):
        return sign * strength * space.shear
    if operation in ("translate_x", "translate_y"):
        return sign * _whole(strength * space.translate)
    if operation == "rotate":
        return sign * _whole(strength * space.rotate)
    if operation == "solarize":
        return 256 - _whole(strength * 256)
    if operation == "posterize":
        return 8 - _whole(strength * space.dropped_bits)
    low, high = space.enhance
    return low + strength * (high - low)


def _whole(number: Tensor) -> Tensor:
    # A strength of 3 in 30 times 10 is slightly below 1 in floats.
    return (number + 1e-9).floor()


class Augmenting(NamedTuple):
    """Which images each operation gets, int64 indices, and with which magnitudes, float64; both by operation."""

    samples: dict[str, Tensor]
    magnitudes: dict[str, Tensor]


def trivial_augment(
    inputs: Tensor, samples: dict[str, Tensor], magnitudes: dict[str, Tensor], *, in_place: bool = False
) -> Tensor:
    """Edit each image by the operation that it is listed under; images that are listed nowhere stay as they are.

    ``inputs`` is (N, C, H, W) with 1 or 3 channels, uint8 from 0 to 255 or floating from 0 to 1. ``samples`` and
    ``magnitudes`` are mappings by the names in ``OPERATIONS``. ``samples`` holds the indices for each operation, (n)
    int64, and ``magnitudes`` its magnitude for each of them, (n). The result is in the memory of ``inputs`` if
    ``in_place``.

    >>> trivial_augment(torch.full((2, 1, 1, 1), 0.25), {"brightness": torch.tensor([1])},
    ...                 {"brightness": torch.tensor([2.0])}).flatten()
    tensor([0.2500, 0.5000])

    Müller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, ICCV 2021,
    https://arxiv.org/abs/2103.10158
    """
    edited = inputs if in_place else inputs.clone()
    for operation, chosen in samples.items():
        if operation != "identity":
            edited[chosen] = OPERATIONS[operation](inputs[chosen].contiguous(), magnitudes[operation])
    return edited


class TrivialAugment(Algorithm[Augmenting], name="trivial_augment"):
    """Edit each image by one operation, drawn evenly from 14, with a strength drawn evenly from 31.

    The operations recolour (auto_contrast, equalize, solarize, color, posterize, contrast, brightness, sharpness), move
    pixels (rotate, shear_x, shear_y, translate_x, translate_y) or do nothing (identity), as in Pillow: bytes come out
    as there. Those that have a direction get a random one. Targets stay as they are.

    >>> TrivialAugment(space="standard").strengths
    31

    Müller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, ICCV 2021,
    https://arxiv.org/abs/2103.10158
    """

    tasks = frozenset({"multiclass", "multilabel", "regression"})

    space: Literal["standard", "wide"] = Field(default="wide", description="how strong the operations are at most")
    strengths: int = Field(
        default=31, ge=2, le=10_000, description="number of strengths, evenly spaced from none to the most"
    )

    def draw(self, batch: BatchSpec, rng: Rng) -> Augmenting:
        """Draw an operation and its magnitude for each image, and group the images by operation."""
        if len(batch.shape) != 3 or batch.shape[0] not in (1, 3):
            raise DataError(f"{self.identity} edits images of 1 or 3 channels, (C, H, W), not of shape {batch.shape}")
        operations = rng.integers(0, len(OPERATIONS), (batch.size,))
        strength = rng.integers(0, self.strengths, (batch.size,)).double() / (self.strengths - 1)
        sign = rng.integers(0, 2, (batch.size,)) * 2 - 1
        groups = {name: (operations == number).nonzero().flatten() for number, name in enumerate(OPERATIONS)}
        groups = {name: chosen for name, chosen in groups.items() if len(chosen)}
        space = SPACES[self.space]
        strong = {name: magnitudes(name, strength[chosen], sign[chosen], space) for name, chosen in groups.items()}
        return Augmenting(groups, strong)

    @transform(
        inputs=Edit(
            frozenset({BYTES, UNIT}),
            acts=frozenset({Axis.POSITION, Axis.CHANNEL}),
            varies=frozenset({Axis.SAMPLE}),
            form=Form.NONLINEAR,
        ),
        eager=True,  # each operation gets another number of images in each batch
    )
    def apply(self, batch: Batch, draws: Augmenting) -> Batch:
        """Edit each group of images by its operation."""
        return batch.with_inputs(
            trivial_augment(batch.inputs, draws.samples, draws.magnitudes, in_place=batch.writable)
        )
