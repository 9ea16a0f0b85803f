"""Memory for large results on a CPU, used again once it is freed."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

__all__ = ["LARGE", "Recycler", "empty_like"]

LARGE = 1 << 20
"""Bytes from which memory is kept: what is smaller the allocator itself keeps."""

_Piece = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

_KEPT = 2
"""How many freed buffers are kept."""


class _Lent(_Piece):
    """The memory of a piece while a tensor uses it; afterwards it returns to the pool."""

    home: deque[_Piece]
    piece: _Piece

    def __del__(self) -> None:
        if "home" in self.__dict__:  # else it is a view that NumPy made of one
            self.home.append(self.piece)


class Recycler:
    """A pool of buffers: gives out uninitialised tensors, in the memory of earlier ones that have been freed.

    The system allocates large memory page by page at the first write, which costs several times the write itself. A
    piece returns to the pool when its last tensor is freed, including views and tensors saved by autograd. Memory in
    use is therefore never overwritten.

    >>> recycler, form = Recycler(), torch.empty(1024, 1024, device="meta")
    >>> first = recycler.empty_like(form)
    >>> place = first.data_ptr()
    >>> recycler.empty_like(form).data_ptr() == place
    False
    >>> del first
    >>> place in {recycler.empty_like(form).data_ptr() for _ in range(2)}
    True
    """

    def __init__(self) -> None:
        # Pieces come back from whatever thread drops the last tensor; a deque takes and gives without a lock.
        self._free: deque[_Piece] = deque(maxlen=_KEPT)

    def empty_like(self, form: Tensor) -> Tensor:
        """Return a CPU tensor of the shape and dtype of ``form``, laid out as ``torch.empty_like`` does."""
        if not form.is_contiguous():
            form = torch.empty_like(form, device="meta")
        size = form.element_size() * form.numel()
        if size < LARGE:
            return torch.empty_strided(form.shape, form.stride(), dtype=form.dtype)
        piece = self._take(size)
        lent = piece.view(_Lent)  # an array of its own, which lives as long as a tensor holds the memory
        lent.home, lent.piece = self._free, piece
        return torch.from_numpy(lent).view(form.dtype).as_strided(form.shape, form.stride())

    def _take(self, size: int) -> _Piece:
        """Return a free piece; pieces of another size are released, to keep memory small with batches of many sizes."""
        while self._free:
            try:
                piece = self._free.pop()  # the one that is still in the cache, if any is
            except IndexError:  # another thread was faster
                break
            if piece.size == size:
                return piece
        # NumPy asks the system for huge pages: it allocates 512 times fewer of them.
        return np.empty(size, np.uint8)


_SHARED = Recycler()


def empty_like(form: Tensor) -> Tensor:
    """Return a CPU tensor like ``form``, with any values; a large one in a freed buffer.

    Two pieces at most are kept for the next call; they serve the whole process.

    >>> empty_like(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return _SHARED.empty_like(form)
