"""The order of the examples: keyed by (seed, epoch), and resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from counterpoint.core.declare.randomness import Rng
from counterpoint.core.errors import DataError
from counterpoint.trainer.data.dataset import Data, Example, RandomDataset, SizedDataset
from counterpoint.trainer.data.examples import Failure, attempt, collate
from counterpoint.trainer.data.user_loader import LoaderEpochs, first_batch, seeded_batches
from counterpoint.trainer.data.worker_signals import leave_signals_to_parent

__all__ = ["EpochSampler", "Epochs", "Key", "evaluation_loader", "make_epochs", "train_loader"]

Key = tuple[int, int]
"""The epoch and the index of an example."""


class Epochs(Protocol):
    """The epochs of the training data: ``batches`` device batches each, of ``batch_size`` examples at most."""

    batch_size: int
    batches: int

    def start(self, epoch: int, batch: int = 0) -> None:
        """Make the next iteration that of ``epoch``, from its batch number ``batch`` on."""


class EpochSampler(Sampler[list[Key]]):
    """Batches of examples in a random order that depends on nothing but the seed and the epoch.

    The order is a permutation of all ``length`` examples; each of ``ranks`` processes takes a batch of ``batch_size``
    from it in turn. The last, incomplete batches are left out, unless an epoch would then have none: then its only
    batch holds all examples. The permutation is drawn from a generator of its own.

    >>> sampler = EpochSampler(5, 2, seed=17)
    >>> list(sampler)
    [[(0, 0), (0, 3)], [(0, 4), (0, 2)]]
    >>> sampler.start(epoch=0, batch=1)
    >>> list(sampler)
    [[(0, 4), (0, 2)]]

    Raises ``DataError`` if there are fewer examples than processes.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if length < ranks:
            raise DataError(f"the training data holds {length} examples, and training takes at least {ranks}")
        self.batch_size = min(batch_size, length // ranks)
        self.batches = length // (self.batch_size * ranks)
        self._length, self._seed, self._rank, self._ranks = length, seed, rank, ranks
        self.start(epoch=0)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Make the next iteration that of ``epoch``, from its batch number ``batch`` on."""
        self._epoch, self._batch = epoch, batch

    def __len__(self) -> int:
        """Return the number of batches that the next iteration gives."""
        return self.batches - self._batch

    def __iter__(self) -> Iterator[list[Key]]:
        """Give the keys of each batch of this process."""
        order = Rng(self._seed, "examples", self._epoch, None).permutation(self._length).tolist()
        for batch in range(self._batch, self.batches):
            first = (batch * self._ranks + self._rank) * self.batch_size
            yield [(self._epoch, index) for index in order[first : first + self.batch_size]]


class _Keyed(Dataset[Example | Failure]):
    """A data set addressed by (epoch, index)."""

    def __init__(self, data: SizedDataset, seed: int) -> None:
        self._data, self._seed = data, seed

    def __getitem__(self, key: Key) -> Example | Failure:
        return attempt(lambda: self._example(*key), key[1])

    def _example(self, epoch: int, index: int) -> Example:
        if isinstance(self._data, RandomDataset):
            return self._data.example(index, Rng(self._seed, f"example/{index}", epoch, None))
        return self._data[index]


class _Indexed(Dataset[Example | Failure]):
    """A data set addressed by index, as torch's loader types it."""

    def __init__(self, data: SizedDataset) -> None:
        self._data = data

    def __getitem__(self, index: int) -> Example | Failure:
        return attempt(lambda: self._data[index], index)


def make_epochs(data: Data, batch_size: int, *, seed: int, rank: int, ranks: int) -> Epochs:
    """Return the epochs of a data set in batches of ``batch_size``, or of a DataLoader as it is."""
    if isinstance(data, DataLoader):
        return LoaderEpochs(data, first_batch(data, "training"), seed=seed)
    return EpochSampler(len(data), batch_size, seed=seed, rank=rank, ranks=ranks)


def train_loader(data: Data, sampler: Epochs, *, seed: int, workers: int) -> Iterable[Any]:
    """Load the batches that ``sampler`` gives with ``workers`` processes, or in this one for 0."""
    if isinstance(sampler, LoaderEpochs):
        return sampler
    assert isinstance(sampler, EpochSampler)
    assert not isinstance(data, DataLoader)
    return DataLoader(
        _Keyed(data, seed),
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=_own_generator(),
        worker_init_fn=leave_signals_to_parent,
    )


def evaluation_loader(data: Data, batch_size: int, *, workers: int, rank: int = 0, ranks: int = 1) -> Iterable[Any]:
    """Load every ``ranks``-th example in order, in batches of ``batch_size``; a DataLoader gives its own batches."""
    if isinstance(data, DataLoader):
        return seeded_batches(data, 0, "evaluation")
    return DataLoader(
        _Indexed(data),
        batch_size=batch_size,
        sampler=range(rank, len(data), ranks),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=_own_generator(),
        worker_init_fn=leave_signals_to_parent,
    )


def _own_generator() -> torch.Generator:
    """Make a generator for a loader, which would otherwise draw from torch's global one in each epoch."""
    return torch.Generator().manual_seed(0)
