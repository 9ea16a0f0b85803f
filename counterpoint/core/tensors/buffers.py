"""Memory for large results on a CPU, used again once it is freed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["LARGE", "BufferPool", "empty_like"]

LARGE = 1 << 20
"""Bytes from which memory is kept: smaller memory is kept by the allocator."""

_Memory = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

_KEPT = 4
"""How many freed buffers are kept, of all sizes together."""

_UNUSED = 64
"""How many requests a freed buffer serves none of before it is given back to the system."""


@dataclass(slots=True)
class _Buffer:
    """Memory, and how many requests it has served none of since it was freed."""

    memory: _Memory
    unused: int = 0


class _Lent(_Memory):
    """The memory of a buffer while a tensor uses it; afterwards the buffer returns to the pool."""

    pool: deque[_Buffer]
    buffer: _Buffer

    def __del__(self) -> None:
        if "pool" in self.__dict__:  # else it is a view that NumPy made of one
            self.pool.append(self.buffer)


class BufferPool:
    """A pool of buffers: returns uninitialised tensors, in the memory of earlier ones that have been freed.

    The system provides large memory page by page, when each is first written to. This takes several times as long as
    the write. A buffer returns when the last tensor in it is freed, including views and what autograd has saved. Memory
    that a tensor still uses is therefore never used for another. Four freed buffers at most are kept, of one or several
    sizes; one that serves none of 64 requests is given back to the system. Threads may share a pool.

    >>> pool, form = BufferPool(), torch.empty(1024, 1024, device="meta")
    >>> first = pool.empty_like(form)
    >>> place = first.data_ptr()
    >>> pool.empty_like(form).data_ptr() == place
    False
    >>> del first
    >>> place in {pool.empty_like(form).data_ptr() for _ in range(2)}
    True
    """

    def __init__(self) -> None:
        # Buffers return from the thread that frees the last tensor, at any time; a deque adds and removes without a
        # lock. The buffer that was freed last is on the right; a full deque drops the one on the left.
        self._free: deque[_Buffer] = deque(maxlen=_KEPT)

    def empty_like(self, form: Tensor) -> Tensor:
        """Return a CPU tensor of the shape and dtype of ``form``, laid out as ``torch.empty_like`` does."""
        if not form.is_contiguous():
            form = torch.empty_like(form, device="meta")
        size = form.element_size() * form.numel()
        if size < LARGE:
            return torch.empty_strided(form.shape, form.stride(), dtype=form.dtype)
        buffer = self._take(size) or _Buffer(_allocated(size))
        lent = buffer.memory.view(_Lent)  # an array of its own, which lives as long as a tensor uses the memory
        lent.pool, lent.buffer = self._free, buffer
        return torch.from_numpy(lent).view(form.dtype).as_strided(form.shape, form.stride())

    def _take(self, size: int) -> _Buffer | None:
        """Return the free buffer of a size that was freed last, which may still be in the cache, if there is one."""
        found, others = None, []
        for _ in range(_KEPT):
            try:
                buffer = self._free.pop()
            except IndexError:
                break
            if found is None and buffer.memory.size == size:
                found, buffer.unused = buffer, 0
                continue
            buffer.unused += 1
            if buffer.unused < _UNUSED:
                others.append(buffer)
        self._free.extend(reversed(others))
        return found


def _allocated(size: int) -> _Memory:
    # NumPy asks the system for huge pages: it allocates 512 times fewer of them.
    return np.empty(size, np.uint8)


_SHARED = BufferPool()


def empty_like(form: Tensor) -> Tensor:
    """Return a CPU tensor like ``form``, with any values; a large one in a freed buffer.

    The whole process uses one ``BufferPool``.

    >>> empty_like(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return _SHARED.empty_like(form)
