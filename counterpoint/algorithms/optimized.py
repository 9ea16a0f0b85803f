"""What methods that work on gradients share: the parameters that a step changes."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

__all__ = ["optimized"]


def optimized(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that the optimizer holds and that have a gradient.

    The model's other parameters may have one too, which nothing zeroes and no step uses.

    >>> import torch
    >>> body, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    >>> head(body(torch.ones(1, 2))).sum().backward()
    >>> len(optimized(torch.optim.SGD(head.parameters(), lr=0.1)))
    2
    """
    return [
        parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None
    ]
