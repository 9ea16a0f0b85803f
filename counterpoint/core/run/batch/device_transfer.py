"""Move draws from the host to the device of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from counterpoint.core.run.batch.calls import Call, map_draws

__all__ = ["move_draws", "moved", "packed"]

_ALIGNED = 64
"""Bytes at whose multiples tensors begin: kernels load several numbers at once from such places alone."""


def move_draws(calls: Sequence[Call], device: torch.device) -> list[Call]:
    """Return calls with their draws on a device, moved there in one asynchronous copy."""
    return list(calls) if device.type == "cpu" else packed(calls, device)


def packed(calls: Sequence[Call], device: torch.device) -> list[Call]:
    """Return calls whose draws lie in one piece of memory on a device, each tensor that several share once."""
    found: list[Tensor] = []
    for call in calls:
        map_draws(found.append, call.draws)
    distinct = {id(tensor): tensor for tensor in found}
    there = dict(zip(distinct, moved(list(distinct.values()), device), strict=True))
    return [call._replace(draws=map_draws(lambda tensor: there[id(tensor)], call.draws)) for call in calls]


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return tensors of the host on a device, moved there in one copy from pinned memory.

    >>> moved([torch.tensor(0.5), torch.tensor([[1, 2]])], torch.device("cpu"))
    [tensor(0.5000), tensor([[1, 2]])]
    """
    sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors]
    piece = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, part in zip(tensors, torch.split(piece, sizes), strict=True):
        _like(part, tensor).copy_(tensor)
    there = piece.to(device, non_blocking=True)
    return [_like(part, tensor) for tensor, part in zip(tensors, torch.split(there, sizes), strict=True)]


def _like(part: Tensor, tensor: Tensor) -> Tensor:
    return part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
