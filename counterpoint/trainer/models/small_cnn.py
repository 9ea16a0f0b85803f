"""A small convolutional network."""

from __future__ import annotations

from functools import partial

from pydantic import Field
from torch import nn

from counterpoint.trainer.component_config import ComponentConfig
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.models.convolution import convolution, image_channels
from counterpoint.trainer.models.memory import fitting

__all__ = ["SmallCNN"]


class SmallCNN(ComponentConfig):
    """Three 3x3 convolutions with batch norm, global average pooling, and a linear layer.

    The second and the third convolution have stride 2. ``build`` takes images (C, H, W) of at least 1 pixel a side
    and raises ``ConfigError`` for other inputs.

    >>> import torch
    >>> model = SmallCNN(width=8).build(DataSpec("multiclass", "normalized", (1, 8, 8), 10))
    >>> model(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    width: int = Field(
        default=32,
        ge=1,
        le=10**6,
        description="channels of the first convolution; the others have 2 and 4 times as many",
    )

    def build(self, spec: DataSpec) -> nn.Module:
        """Make the network, with the random weights of torch's default initialisation."""
        return fitting(partial(self._network, spec))

    def _network(self, spec: DataSpec) -> nn.Module:
        channels = image_channels("small_cnn", spec)
        widths = (self.width, 2 * self.width, 4 * self.width)
        layers: list[nn.Module] = []
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            layers += [convolution(channels, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, spec.outputs))
