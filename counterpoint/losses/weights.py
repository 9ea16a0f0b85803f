"""Weights of a loss module, read at every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["WithWeights"]


@dataclass(frozen=True)
class WithWeights:
    """A function that gets weights of a module as keywords, read at every call.

    ``module.to(device)`` works after composing. Unlike a local function, it can be pickled and copied with its module.

    >>> import torch
    >>> module = nn.CrossEntropyLoss(weight=torch.ones(2))
    >>> scaled = WithWeights(lambda targets, weight: targets * weight, module, ("weight",))
    >>> module.weight = torch.tensor([1.0, 3.0])
    >>> scaled(torch.ones(2))
    tensor([1., 3.])
    """

    function: Callable[..., Tensor]
    module: nn.Module
    names: tuple[str, ...]

    def __call__(self, *args: Tensor, **settings: Any) -> Tensor:
        """Call the function with the weights that the module has now."""
        return self.function(*args, **{name: getattr(self.module, name) for name in self.names}, **settings)
