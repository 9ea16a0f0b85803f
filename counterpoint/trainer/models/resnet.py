"""Residual networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from counterpoint.trainer.component_config import ComponentConfig
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.models.convolution import convolution, image_channels

__all__ = ["ResNet", "ResNet18", "ResNet50"]

Stem = Literal["auto", "small", "large"]
_SMALL_IMAGE = 64


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
        channels = image_channels(name, spec)
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


class _Residual(nn.Module):
    """A block whose result is added to its input, projected where the shapes differ."""

    expansion = 1

    def __init__(self, branch: nn.Sequential, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(convolution(channels, width, 1, stride), nn.BatchNorm2d(width))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H / stride, W / stride)."""
        outputs: Tensor = self.activation(self.branch(inputs) + self.shortcut(inputs))
        return outputs


class BasicBlock(_Residual):
    """Two 3x3 convolutions."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        branch = nn.Sequential(
            convolution(channels, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            convolution(width, width, 3),
            nn.BatchNorm2d(width),
        )
        super().__init__(branch, channels, width, stride)


class Bottleneck(_Residual):
    """A 1x1, a 3x3 and a 1x1 convolution, the last to four times the width."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        branch = nn.Sequential(
            convolution(channels, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            convolution(width, width, 3, stride),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            convolution(width, 4 * width, 1),
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
            return nn.Sequential(convolution(channels, 64, 3), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
        return nn.Sequential(
            convolution(channels, 64, 7, stride=2),
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
