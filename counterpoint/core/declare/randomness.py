"""Random numbers that depend only on their key.

Every draw comes from a Philox generator keyed by a 128-bit digest of (seed, algorithm id, step, rank). The draws do not
depend on the order of the list. Adding or skipping one method does not change another's. A run resumes bit for bit from
the step number alone. No global generator is used.
"""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from counterpoint.core.arguments import instance, real_number, shown, whole_number
from counterpoint.core.errors import ArgumentError

__all__ = ["Rng"]

_FREE: deque[np.random.Generator] = deque(maxlen=16)
"""Generators for reuse: a new one asks the system for entropy, which a key makes useless."""
_ZEROS = np.zeros(4, np.uint64)
_START = {"bit_generator": "Philox", "buffer": _ZEROS, "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
"""The state of a new generator, without its key."""


_SMALLEST, _GREATEST = 1e-300, 1e300
"""Bounds of the parameters of Beta numbers."""

_LARGEST = 1 << 256
"""The largest number in a key: Python refuses to write out one of some thousand digits."""


def _checked_key(seed: object, stream: object, step: object, rank: object) -> tuple[int, int, int | None]:
    """Return the parts of a key as Python's integers; raises ``ArgumentError`` for parts that are none."""
    instance("stream", stream, str, "'mixup'")
    numbers = whole_number("seed", seed, high=_LARGEST), whole_number("step", step, high=_LARGEST)
    return (*numbers, None if rank is None else whole_number("rank", rank, high=_LARGEST))


class Rng:
    """The random numbers of one algorithm at one step; all results are new tensors on the CPU.

    ``Rng(seed, stream, step, rank)``: equal keys give equal numbers, on every machine with the same library versions.

    >>> Rng(17, "mixup", 0).permutation(5)
    tensor([2, 0, 4, 1, 3])
    >>> bool((Rng(17, "mixup", 0).permutation(5) == Rng(17, "mixup", 0).permutation(5)).all())
    True
    """

    def __init__(self, seed: int, stream: str, step: int = 0, rank: int | None = 0) -> None:
        self._made: np.random.Generator | None = None
        plain = type(seed) is type(step) is int and type(stream) is str and (rank is None or type(rank) is int)
        if not plain or max(seed, step, rank or 0) > _LARGEST:
            seed, step, rank = _checked_key(seed, stream, step, rank)
        self._key = f"{seed}/{stream}/{step}/{'shared' if rank is None else rank}"

    def __del__(self) -> None:
        if self._made is not None:
            _FREE.append(self._made)

    def __copy__(self) -> Rng:
        # A copy has a generator of its own: a freed one is used again.
        return copy.deepcopy(self)

    @property
    def _numbers(self) -> np.random.Generator:
        # Created for the first number: most methods that edit every batch draw nothing.
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> np.random.Generator:
        digest = hashlib.blake2b(self._key.encode(), digest_size=16).digest()
        key = np.frombuffer(digest, dtype="<u8").astype(np.uint64)
        try:
            generator = _FREE.pop()
        except IndexError:
            return np.random.Generator(np.random.Philox(key=key))
        generator.bit_generator.state = {**_START, "state": {"counter": _ZEROS, "key": key}}
        return generator

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Sequence[int] = ()) -> Tensor:
        """Draw float64 numbers from the uniform distribution over ``[low, high)``, of shape ``size``."""
        return torch.as_tensor(self._numbers.uniform(low, high, tuple(size)))

    def normal(self, mean: float = 0.0, deviation: float = 1.0, size: Sequence[int] = ()) -> Tensor:
        """Draw float64 numbers from the normal distribution, of shape ``size``."""
        return torch.as_tensor(self._numbers.normal(mean, deviation, tuple(size)))

    def integers(self, low: int, high: int, size: Sequence[int] = ()) -> Tensor:
        """Draw int64 numbers uniformly from ``low`` to ``high``, end exclusive, of shape ``size``."""
        return torch.as_tensor(self._numbers.integers(low, high, tuple(size)))

    def permutation(self, n: int) -> Tensor:
        """Draw a permutation of ``n`` as int64 indices of shape (n)."""
        return torch.as_tensor(self._numbers.permutation(n))

    def choice(self, weights: Sequence[float]) -> int:
        """Draw an index with probability proportional to its weight; an index of weight 0 is never drawn."""
        shares = np.cumsum(np.asarray(weights, dtype=np.float64))
        return int(np.searchsorted(shares, self._numbers.random() * shares[-1], side="right"))

    def coin(self, p: float) -> bool:
        """Draw true with probability ``p``: always for 1, never for 0."""
        return bool(self._numbers.random() < p)

    def beta(self, a: float, b: float, size: Sequence[int] = ()) -> Tensor:
        """Draw float64 numbers from Beta(a, b), of shape ``size``, with NumPy's ``Generator.beta``.

        ``a`` and ``b`` are positive; below 1e-300 they count as 1e-300, and above 1e300 as 1e300. A number that is
        closer to 0 or 1 than float64 can hold is exactly 0 or 1. No number is NaN. Raises ``ArgumentError`` for
        parameters that are NaN, zero or negative.

        >>> Rng(17, "edge").beta(1e-6, 1e-6, (4,))
        tensor([0., 1., 1., 0.], dtype=torch.float64)
        """
        # min and max would let NaN pass as one of the two.
        if not (type(a) is type(b) is float and _SMALLEST <= a <= _GREATEST and _SMALLEST <= b <= _GREATEST):
            a, b = _beta_parameter("a", a), _beta_parameter("b", b)
        return torch.as_tensor(self._numbers.beta(a, b, tuple(size)))


def _beta_parameter(name: str, value: float) -> float:
    """Return a parameter within the bounds in which the sum of two is neither rounded away nor infinite."""
    number = real_number(name, value)
    if number <= 0:
        raise ArgumentError(f"{name} is {shown(value)}; it is a positive number, such as 0.2")
    return min(max(number, _SMALLEST), _GREATEST)
