"""Convolutions, and the shape of the images that a model takes."""

from __future__ import annotations

from torch import nn

from counterpoint.core.errors import ConfigError
from counterpoint.trainer.data.dataset import DataSpec

__all__ = ["convolution", "image_channels"]


def image_channels(name: str, spec: DataSpec) -> int:
    """Return the channels of the images (C, H, W) of a data set; raises ``ConfigError`` for other inputs."""
    if len(spec.input_shape) != 3:
        raise ConfigError(
            f"model: {name} takes images of shape (C, H, W), and the data has inputs of shape {spec.input_shape}; "
            "use a model that takes them, such as mlp"
        )
    return spec.input_shape[0]


def convolution(channels: int, width: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution that divides the image's size by its stride; batch norm follows, so it has no bias."""
    return nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)
