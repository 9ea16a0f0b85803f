"""Copies of the parameters and buffers of a model, to be restored later."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from counterpoint.core.compat import tensor_tables
from counterpoint.core.tensors.sharding import is_sharded, reshard

__all__ = ["SavedTensors", "write"]


class SavedTensors:
    """Copies of the buffers of a model, and with ``parameters`` of its parameters, taken when it is made.

    ``restore`` puts them back bit for bit, into the tensors that the model and its optimizer held: also where a tensor
    was replaced, resized, deleted or added since. Tensors of lazy layers that have no shape yet are left alone.

    >>> norm = nn.BatchNorm1d(2)
    >>> saved = SavedTensors(norm)
    >>> out = norm(torch.rand(4, 2))
    >>> saved.restore()
    >>> norm.running_mean
    tensor([0., 0.])
    """

    def __init__(self, model: nn.Module, *, parameters: bool = False) -> None:
        self._model = model
        self._places = [place for module in model.modules() for place in tensor_tables(module, parameters=parameters)]
        self._held = [dict(place) for place in self._places]
        distinct = {id(tensor): tensor for held in self._held for tensor in held.values() if tensor is not None}
        self._copies = [
            (tensor, tensor.detach(), tensor.detach().clone()) for tensor in distinct.values() if not is_lazy(tensor)
        ]

    def restore(self) -> None:
        """Put every tensor back."""
        reshard(self._model)
        for place, held in zip(self._places, self._held, strict=True):
            if [(name, id(tensor)) for name, tensor in place.items()] != [(name, id(held[name])) for name in held]:
                place.clear()
                place.update(held)
        with torch.no_grad():
            for tensor, memory, copy in self._copies:
                if not is_sharded(tensor) and not _is_same_memory(tensor, memory):
                    tensor.data = memory
                write(tensor, copy)


def write(tensor: Tensor, value: Tensor) -> None:
    """Copy a value of the same shape into a tensor, also into one that ``expand`` made."""
    if tensor.layout is torch.strided and 0 in tensor.stride():
        once = tuple(slice(1) if stride == 0 else slice(None) for stride in tensor.stride())
        tensor, value = tensor[once], value[once]
    tensor.copy_(value)


def _is_same_memory(tensor: Tensor, memory: Tensor) -> bool:
    if tensor.layout is not torch.strided or memory.layout is not torch.strided:
        return tensor.layout is memory.layout
    pairs = ((one.data_ptr(), one.shape, one.stride(), one.dtype, one.device) for one in (tensor, memory))
    return next(pairs) == next(pairs)
