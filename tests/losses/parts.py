"""What every loss must do alike: values with gradients to compare, and batches run in parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from counterpoint import LossSpec
from counterpoint.losses import resolve_loss


def known(loss: nn.Module | Callable[..., Tensor]) -> LossSpec:
    spec = resolve_loss(loss)
    assert spec is not None
    return spec


def value_and_gradient(
    loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = outputs.detach().clone().requires_grad_()
    value = loss(leaf, targets)
    # A different factor on each position's loss tells them apart in the gradient.
    factors = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
    (gradient,) = torch.autograd.grad(value, leaf, factors)
    return value.detach(), gradient


def assert_parts_add_up(spec: LossSpec, outputs: Tensor, targets: Tensor, parts: tuple[int, ...]) -> None:
    """The loss of a batch is the sum over its parts, each by its share of what the mean divides by."""
    total = torch.zeros((), dtype=torch.float64)
    for some, their in zip(outputs.split(parts), targets.split(parts), strict=True):
        share = 1.0 if spec.denominator is None else (spec.denominator(their) / spec.denominator(targets)).item()
        total += spec.function(some, their) * share
    torch.testing.assert_close(total, spec.function(outputs, targets), rtol=1e-6, atol=1e-7)
