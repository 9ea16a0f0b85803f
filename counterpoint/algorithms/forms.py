"""Forms of an edit: in passes over the whole batch, or sample by sample while a sample is in the cache.

A pass over a large batch waits for memory, and memory that is new for each batch costs several times more again. So on
a CPU samples from a certain size on are edited one after the other, in the batch's own memory where that may be
written, else in memory that is used again. On other devices, in a compiled plan and where gradients are tracked, an
edit is a few operations on the whole batch, and the host reads no draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from counterpoint.core.memory import empty_like

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
"""Bytes of a sample from which an edit goes sample by sample; ``python -m benchmarks.forms`` times both forms."""

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
    """Whether samples are large enough to be edited one by one, and each has memory of its own."""
    return 0 < values.nbytes >= FROM_BYTES[edit] * len(values) and (
        values.is_contiguous() or values.is_contiguous(memory_format=torch.channels_last)
    )


def gathered(values: Tensor, perm: Tensor) -> Tensor:
    """Return ``values[perm]`` of CPU values in memory used again, by whole rows, which takes a tenth of the time.

    ``perm`` counts from the front.
    """
    return torch.index_select(values, 0, perm, out=empty_like(values))


def from_front(perm: Tensor) -> Tensor:
    """Return indices counted from the front, of such as may be counted from the end.

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
    """Tell autograd that values were written to through NumPy, so that it refuses to use what it saved of them."""
    if not values.is_inference():
        torch.autograd.graph.increment_version(values)


def as_bits(values: Tensor) -> Tensor:
    """Return the memory of a tensor as integers of the same size."""
    return values.detach().view(_INTEGERS[values.element_size()])
