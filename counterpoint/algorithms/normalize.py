"""Normalize: subtract the mean of each channel and divide by its standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from counterpoint.algorithms.forms import BLOCK, in_passes
from counterpoint.core import Algorithm, Batch, Edit, Form, transform
from counterpoint.core.declare.kinds import BYTES, NORMALIZED, UNIT, Axis
from counterpoint.core.errors import DataError
from counterpoint.core.tensors.buffers import empty_like

__all__ = ["Normalize", "normalize"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def normalize(
    inputs: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
) -> Tensor:
    """Return ``(inputs - mean) / std`` for each channel, with bytes scaled to 0 to 1 before.

    ``inputs`` is (N, C, H, W), uint8 from 0 to 255 or floating from 0 to 1. ``mean`` and ``std`` hold a number for each
    channel, or one for all, in the scale from 0 to 1. The result has the dtype ``dtype``. Without it, the result is
    float32 for bytes, and has the dtype of ``inputs`` otherwise. It has the memory format of ``inputs``, or
    ``torch.channels_last`` with ``channels_last``. Raises ``DataError`` for other dtypes, and if the count of numbers
    is neither 1 nor that of the channels.

    >>> normalize(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), [0.5], [0.25])
    tensor([[[[-2.,  2.]]]])
    """
    if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
        raise DataError(f"images to normalise are uint8 or floating, not {inputs.dtype}")
    channels = inputs.shape[1]
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, channels):
            raise DataError(
                f"{name} holds {len(numbers)} numbers, and the images have {channels} channels: give one number for "
                "each channel, or one for all"
            )
    scale, own = (255.0, torch.float32) if inputs.dtype == torch.uint8 else (1.0, inputs.dtype)
    wanted = own if dtype is None else dtype
    if not wanted.is_floating_point:
        raise DataError(f"normalised images are floating, not {wanted}")
    exact = torch.promote_types(torch.promote_types(own, wanted), torch.float32)
    centre = _by_channel([scale * number for number in mean], exact, inputs.device)
    factor = _by_channel([1 / (scale * number) for number in std], exact, inputs.device)
    layout = torch.channels_last if channels_last else torch.preserve_format
    images = max(1, BLOCK // max(1, exact.itemsize * inputs.shape[1:].numel()))
    if in_passes(inputs) or len(inputs) <= images:
        return inputs.to(exact, copy=True, memory_format=layout).sub_(centre).mul_(factor).to(wanted)
    normalized = empty_like(torch.empty_like(inputs, dtype=wanted, device="meta", memory_format=layout))
    _in_blocks(inputs, normalized, centre, factor, images)
    return normalized


def _in_blocks(inputs: Tensor, normalized: Tensor, centre: Tensor, factor: Tensor, images: int) -> None:
    """Write into ``normalized`` so many images at a time, computed in the dtype of ``centre`` while they are in cache.

    If the memory format changes, the images are copied to it first, as bytes if they are bytes.
    """
    plain = inputs.stride(1) != 1
    turned = None
    if plain and normalized.stride(1) == 1:
        turned = torch.empty_like(inputs[:images], memory_format=torch.channels_last)
    if turned is not None or not plain:  # the numbers of a line of pixels, so that one loop runs over a line
        centre, factor = (each.flatten().expand(1, inputs.shape[3], -1) for each in (centre, factor))
        centre, factor = (each.contiguous().permute(2, 0, 1) for each in (centre, factor))
    exact = None if normalized.dtype == centre.dtype else torch.empty_like(normalized[:images], dtype=centre.dtype)
    for part, out in zip(torch.split(inputs, images), torch.split(normalized, images), strict=True):
        values = out if exact is None else exact[: len(part)]
        values.copy_(part if turned is None else _turned(part, turned[: len(part)])).sub_(centre).mul_(factor)
        if exact is not None:
            out.copy_(values)


def _turned(images: Tensor, out: Tensor) -> Tensor:
    """Copy images into another layout channel by channel: a loop over all channels would be over three numbers."""
    for channel in range(images.shape[1]):
        out[:, channel].copy_(images[:, channel])
    return out


def _by_channel(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=dtype).view(-1, 1, 1)
    # A copy from the host would wait for the device.
    return torch.stack([torch.full((1, 1), number, dtype=dtype, device=device) for number in numbers])


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class Normalize(Algorithm[None], name="normalize"):
    """Subtract the mean of each channel and divide by its standard deviation, so that inputs are around 0.

    It takes bytes (0 to 255) and unit images (0 to 1) and gives normalised ones; ``mean`` and ``std`` are in the scale
    from 0 to 1 for both. It acts on every batch, in evaluation too, because a model takes one kind of inputs. ``dtype``
    and ``channels_last`` say how the result lies in memory, without another pass over it.

    >>> Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]).mean
    (0.485, 0.456, 0.406)
    """

    mean: Annotated[tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...], BeforeValidator(_as_tuple)] = Field(
        min_length=1, examples=[[0.5]], description="mean of each channel, or one for all, of images from 0 to 1"
    )
    std: Annotated[tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...], BeforeValidator(_as_tuple)] = Field(
        min_length=1,
        examples=[[0.25]],
        description="standard deviation of each channel, or one for all, of images from 0 to 1",
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="of the result; null: float32 for bytes, else that of the inputs"
    )
    channels_last: bool = Field(
        default=False, description="whether the result lies in memory as torch.channels_last; false: as the inputs do"
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Normalize:
        if 1 != len(self.mean) != len(self.std) != 1:
            raise ValueError(f"mean holds {len(self.mean)} numbers and std {len(self.std)}: give as many, or one")
        return self

    @transform(
        inputs=Edit(frozenset({BYTES, UNIT}), gives=NORMALIZED, varies=frozenset({Axis.CHANNEL}), form=Form.AFFINE)
    )
    def apply(self, batch: Batch, draws: None) -> Batch:
        """Normalise the inputs."""
        dtype = None if self.dtype is None else _DTYPES[self.dtype]
        return batch.with_inputs(
            normalize(batch.inputs, self.mean, self.std, dtype=dtype, channels_last=self.channels_last)
        )
