"""Helpers for tensors that FSDP shards among processes."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, TypeGuard

from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["is_sharded", "local", "placed_like", "reshard", "whole"]


def _distributed(name: str) -> ModuleType | None:
    """Return a part of torch.distributed if it is imported, which takes seconds; who has not done so shards nothing."""
    return sys.modules.get(f"torch.distributed.{name}")


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is one of the kind that is spread over processes."""
    distributed = _distributed("tensor")
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: all of it, or its shard."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with its shards of all processes, which must all call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def placed_like(value: Tensor, own: Tensor) -> Tensor:
    """Return ``value`` whole or sharded as ``own`` is; all processes must call this."""
    if not is_sharded(own):
        return whole(value)
    if is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def reshard(model: nn.Module) -> None:
    """Reshard the parameters of a model that FSDP has gathered, as after a forward pass without a backward pass."""
    fsdp = _distributed("fsdp")
    if fsdp is not None:
        for module in model.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()
