"""Random numbers that depend only on their key.

Every draw comes from a Philox generator keyed by a 128-bit digest of (seed, algorithm id, step, rank). The draws do not
depend on the order of the list. Adding or skipping one method does not change another's. A run resumes bit for bit from
the step number alone. No global generator is used.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from counterpoint.core.arguments import instance, whole_number

__all__ = ["Rng"]

_TINY = np.finfo(np.float64).tiny
_SMALLEST_SHAPE = 1e-300
"""Below it logarithms of Gamma numbers overflow, and every Beta number is 0 or 1 long before."""


_FREE: deque[np.random.Generator] = deque(maxlen=16)
"""Generators for reuse: a new one asks the system for entropy, which a key makes useless."""
_ZEROS = np.zeros(4, np.uint64)
_START = {"bit_generator": "Philox", "buffer": _ZEROS, "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
"""The state of a new generator, without its key."""


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
        """Draw float64 numbers from Beta(a, b), of shape ``size``; ``a`` and ``b`` are positive.

        A Beta number is the logistic function of the difference of two log-Gamma numbers. Gamma(a) is taken as Gamma(a
        + 1) * U ** (1 / a) in log space. This is right down to tiny ``a``, where Gamma numbers underflow and the plain
        quotient would be 0 / 0 (Marsaglia and Tsang, ACM TOMS 2000, https://doi.org/10.1145/358407.358414, section 6).

        >>> Rng(17, "beta").beta(1e-6, 1e-6, (4,))
        tensor([1., 0., 0., 0.], dtype=torch.float64)
        """
        difference = self._log_gamma(a, tuple(size)) - self._log_gamma(b, tuple(size))
        return torch.sigmoid(torch.as_tensor(difference, dtype=torch.float64))

    def _log_gamma(self, shape: float, size: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        boost = np.log(np.maximum(self._numbers.random(size), _TINY)) / max(shape, _SMALLEST_SHAPE)
        return np.asarray(np.log(self._numbers.standard_gamma(shape + 1.0, size)) + boost)
