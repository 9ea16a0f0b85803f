"""The parameters that a step changes, for methods that edit gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["dense_gradient", "optimized"]


def optimized(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return the parameters that the optimizer holds and that have a gradient.

    Other parameters of the model may have one too, but it is never zeroed or used.

    >>> import torch
    >>> body, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    >>> head(body(torch.ones(1, 2))).sum().backward()
    >>> len(optimized(torch.optim.SGD(head.parameters(), lr=0.1)))
    2
    """
    return [
        parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.grad is not None
    ]


def dense_gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter, of a sparse one the values that it holds; both can be written to.

    A sparse gradient may hold an index more than once; it is replaced by the one in which each index stands once.
    """
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout is not torch.sparse_coo:
        return gradient
    parameter.grad = gradient.coalesce()
    return parameter.grad.values()
