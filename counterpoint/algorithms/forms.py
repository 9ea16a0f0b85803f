"""Forms of an edit: in passes over the whole batch, or sample by sample while a sample is in the cache.

A pass over a large batch is limited by memory, and newly allocated memory costs several times more. On a CPU large
samples are therefore edited one after the other: in place if the batch may be written to, otherwise in reused memory.
On other devices, in a compiled plan and where gradients are tracked, an edit is a few operations on the whole batch,
and the host reads no draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from counterpoint.core.tensors.buffers import empty_like

__all__ = [
    "BLOCK",
    "FROM_BYTES",
    "as_bits",
    "from_front",
    "gathered",
    "in_passes",
    "is_permutation",
    "mark_written",
    "one_by_one",
    "partners",
]

FROM_BYTES = {"fill": 80 << 10, "mix": 48 << 10, "paste": 20 << 10, "paste each": 4 << 10}
"""Smallest size in bytes of a sample that is edited alone; ``python -m benchmarks.forms`` times both forms."""

BLOCK = 2 << 20
"""Bytes that stay in cache between the passes of an edit that needs no partners."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_Row = TypeVar("_Row")


def in_passes(*tensors: Tensor) -> bool:
    """Whether an edit of these tensors is a few operations on all of them, for a device, a compiler or gradients."""
    return torch.compiler.is_compiling() or any(
        type(tensor) is not Tensor or tensor.device.type != "cpu" or (tensor.requires_grad and torch.is_grad_enabled())
        for tensor in tensors
    )


def one_by_one(values: Tensor, edit: str) -> bool:
    """Whether samples are large enough to be edited one by one, and do not share memory."""
    return 0 < values.nbytes >= FROM_BYTES[edit] * len(values) and (
        values.is_contiguous() or values.is_contiguous(memory_format=torch.channels_last)
    )


def gathered(values: Tensor, perm: Tensor) -> Tensor:
    """Return ``values[perm]`` of CPU values in reused memory, by whole rows, which takes a tenth of the time.

    ``perm`` counts from the front.
    """
    return torch.index_select(values, 0, perm, out=empty_like(values))


def from_front(perm: Tensor) -> Tensor:
    """Return non-negative indices for indices that may be negative.

    >>> from_front(torch.tensor([0, -1, 1]))
    tensor([0, 2, 1])
    """
    return torch.where(perm < 0, perm + len(perm), perm)


def is_permutation(perm: Sequence[int]) -> bool:
    """Whether every index is there once.

    >>> is_permutation([1, 2, 0]), is_permutation([1, 1, 0])
    (True, False)
    """
    return sorted(perm) == list(range(len(perm)))


def partners(
    rows: Sequence[_Row], perm: Sequence[int], copy: Callable[[_Row], _Row], *, in_place: bool = False
) -> Iterator[tuple[int, _Row]]:
    """Give each number with its partner ``rows[perm[number]]``; with ``in_place``, so that rows given may be changed.

    ``perm`` is then a permutation, and each of its cycles is followed from partner to partner. A row is loaded into the
    cache once, for its own result and for that of its partner. Only the first row of each cycle is copied.

    >>> list(partners("abcd", [2, 1, 3, 0], str, in_place=True))
    [(0, 'c'), (2, 'd'), (3, 'a'), (1, 'b')]
    """
    if not in_place:
        yield from ((number, rows[partner]) for number, partner in enumerate(perm))
        return
    seen = [False] * len(perm)
    for start in range(len(perm)):
        if seen[start]:
            continue
        first, number = copy(rows[start]), start
        while perm[number] != start:
            yield number, rows[perm[number]]
            seen[number], number = True, perm[number]
        yield number, first
        seen[number] = True


def mark_written(values: Tensor) -> None:
    """Mark values that were written to through NumPy as changed, so that autograd does not use saved ones."""
    if not values.is_inference():
        torch.autograd.graph.increment_version(values)


def as_bits(values: Tensor) -> Tensor:
    """Return the memory of a tensor as integers of the same size."""
    return values.detach().view(_INTEGERS[values.element_size()])
