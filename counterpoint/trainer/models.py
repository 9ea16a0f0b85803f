"""The models that ship with the trainer: a small CNN, an MLP, and ResNets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from counterpoint.core.errors import ConfigError
from counterpoint.trainer.limits import fitting
from counterpoint.trainer.spec import ComponentConfig, DataSpec

__all__ = ["MLP", "ResNet", "ResNet18", "ResNet50", "SmallCNN"]

Stem = Literal["auto", "small", "large"]
_SMALL_IMAGE = 64


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
        channels = _image_channels("small_cnn", spec)
        widths = (self.width, 2 * self.width, 4 * self.width)
        layers: list[nn.Module] = []
        for width, stride in zip(widths, (1, 2, 2), strict=True):
            layers += [_convolution(channels, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, spec.outputs))


class MLP(ComponentConfig):
    """Fully connected layers with ReLU between them, on inputs of any shape, flattened.

    >>> import torch
    >>> MLP(hidden=16).build(DataSpec("multiclass", "features", (5,), 3))(torch.zeros(2, 5)).shape
    torch.Size([2, 3])
    """

    hidden: int = Field(default=256, ge=1, le=10**9, description="units of each hidden layer")
    layers: int = Field(default=2, ge=0, le=1_000, description="hidden layers")

    def build(self, spec: DataSpec) -> nn.Module:
        """Make the network, with the random weights of torch's default initialisation."""
        return fitting(partial(self._network, spec))

    def _network(self, spec: DataSpec) -> nn.Module:
        width = math.prod(spec.input_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(self.layers):
            layers += [nn.Linear(width, self.hidden), nn.ReLU()]
            width = self.hidden
        return nn.Sequential(*layers, nn.Linear(width, spec.outputs))


class _ResNetConfig(ComponentConfig):
    """The settings that all ResNets share."""

    stem: Stem = Field(
        default="auto",
        description="large: 7x7 convolution of stride 2 and max pooling; small: 3x3 convolution of stride 1; auto: "
        f"small for images of up to {_SMALL_IMAGE} pixels a side",
    )
    zero_init_residual: bool = Field(
        default=True,
        description="start the last batch norm of each block at 0, so that each block starts as the identity",
    )

    def _build(self, name: str, spec: DataSpec, block: type[BasicBlock | Bottleneck], depths: Sequence[int]) -> ResNet:
        channels = _image_channels(name, spec)
        small = max(spec.input_shape[1:]) <= _SMALL_IMAGE if self.stem == "auto" else self.stem == "small"
        return ResNet(
            block,
            depths,
            channels=channels,
            outputs=spec.outputs,
            small_stem=small,
            zero_init_residual=self.zero_init_residual,
        )


class ResNet18(_ResNetConfig):
    """The 18-layer residual network (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385).

    ``build`` takes images (C, H, W) and raises ``ConfigError`` for other inputs.

    >>> model = ResNet18().build(DataSpec("multiclass", "normalized", (3, 224, 224), 1000))
    >>> sum(parameter.numel() for parameter in model.parameters())
    11689512
    """

    def build(self, spec: DataSpec) -> nn.Module:
        """Make the network with random weights."""
        return self._build("resnet18", spec, BasicBlock, (2, 2, 2, 2))


class ResNet50(_ResNetConfig):
    """The 50-layer residual network (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385).

    The stride of a block is in its 3x3 convolution, as is usual today; the paper has it in the first 1x1.
    ``build`` takes images (C, H, W) and raises ``ConfigError`` for other inputs.

    >>> model = ResNet50().build(DataSpec("multiclass", "normalized", (3, 224, 224), 1000))
    >>> sum(parameter.numel() for parameter in model.parameters())
    25557032
    """

    def build(self, spec: DataSpec) -> nn.Module:
        """Make the network with random weights."""
        return self._build("resnet50", spec, Bottleneck, (3, 4, 6, 3))


def _image_channels(name: str, spec: DataSpec) -> int:
    if len(spec.input_shape) != 3:
        raise ConfigError(
            f"model: {name} takes images of shape (C, H, W), and the data has inputs of shape {spec.input_shape}; "
            "use a model that takes them, such as mlp"
        )
    return spec.input_shape[0]


def _convolution(channels: int, width: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Make a convolution that divides the image's size by its stride; batch norm follows, so it has no bias."""
    return nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False)


class _Residual(nn.Module):
    """A block whose result is added to its input, projected where the shapes differ."""

    expansion = 1

    def __init__(self, branch: nn.Sequential, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(_convolution(channels, width, 1, stride), nn.BatchNorm2d(width))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H / stride, W / stride)."""
        outputs: Tensor = self.activation(self.branch(inputs) + self.shortcut(inputs))
        return outputs


class BasicBlock(_Residual):
    """Two 3x3 convolutions."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        branch = nn.Sequential(
            _convolution(channels, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _convolution(width, width, 3),
            nn.BatchNorm2d(width),
        )
        super().__init__(branch, channels, width, stride)


class Bottleneck(_Residual):
    """A 1x1, a 3x3 and a 1x1 convolution, the last to four times the width."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        branch = nn.Sequential(
            _convolution(channels, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _convolution(width, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _convolution(width, 4 * width, 1),
            nn.BatchNorm2d(4 * width),
        )
        super().__init__(branch, channels, 4 * width, stride)


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, global average pooling, and a linear layer.

    Maps images (N, channels, H, W) to (N, outputs). Convolutions start from He's normal distribution over their
    fan-out. ``zero_init_residual`` starts the last batch norm of each block at 0 (Goyal et al., 2017,
    https://arxiv.org/abs/1706.02677).
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        *,
        channels: int,
        outputs: int,
        small_stem: bool,
        zero_init_residual: bool,
    ) -> None:
        super().__init__()
        self.stem = self._make_stem(channels, small_stem)
        stages: list[nn.Module] = []
        width_in = 64
        for stage, depth in enumerate(depths):
            for position in range(depth):
                stride = 2 if stage > 0 and position == 0 else 1
                stages.append(block(width_in, 64 << stage, stride))
                width_in = (64 << stage) * block.expansion
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width_in, outputs))
        self._initialise(zero_init_residual)

    @staticmethod
    def _make_stem(channels: int, small: bool) -> nn.Sequential:
        if small:
            return nn.Sequential(_convolution(channels, 64, 3), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        return nn.Sequential(
            _convolution(channels, 64, 7, stride=2),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, _Residual) and isinstance(last := module.branch[-1], nn.BatchNorm2d):
                    nn.init.zeros_(last.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to (N, outputs)."""
        outputs: Tensor = self.head(self.blocks(self.stem(inputs)))
        return outputs
