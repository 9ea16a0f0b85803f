"""A multilayer perceptron."""

from __future__ import annotations

import math
from functools import partial

from pydantic import Field
from torch import nn

from counterpoint.trainer.component_config import ComponentConfig
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.models.memory import fitting

__all__ = ["MLP"]


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
