"""The user's own DataLoader: its batches as they are, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from counterpoint.core.declare.randomness import Rng
from counterpoint.core.errors import CounterpointError, DataError
from counterpoint.core.run.failures import describe_error

__all__ = ["LoaderEpochs", "first_batch", "seeded_batches"]


class LoaderEpochs:
    """The epochs of a DataLoader that trains as it is: its batch size, its order, its incomplete last batch.

    Before each batch torch's global generator is seeded from the seed of the run and the number of the batch. Before
    each epoch the generators of the loader and of its sampler are seeded, and a ``set_epoch`` of the sampler is called.
    A resumed run loads the batches of its epoch that were trained, passes over them, and goes on with the same ones.

    ``first`` is the first batch. Raises ``DataError`` for a loader without a length.
    """

    def __init__(self, loader: DataLoader[Any], first: Sequence[Tensor], *, seed: int) -> None:
        self.batch_size = len(first[0]) if loader.batch_size is None else min(loader.batch_size, len(first[0]))
        self.batches = _length(loader)
        self._loader, self._seed = loader, seed
        self.start(epoch=0)

    def start(self, epoch: int, batch: int = 0) -> None:
        """Make the next iteration that of ``epoch``, from its batch number ``batch`` on."""
        self._epoch, self._batch = epoch, batch

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        """Give the batches."""
        set_epoch = getattr(self._loader.sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(self._epoch)
        first = self._epoch * self.batches
        for number, batch in enumerate(seeded_batches(self._loader, self._seed, "training", first=first)):
            if number >= self._batch:
                yield batch


def seeded_batches(loader: DataLoader[Any], seed: int, name: str, *, first: int = 0) -> Iterator[Sequence[Tensor]]:
    """Give the batches of a loader of the ``name`` data, each drawn from its own number, from ``first`` on.

    Torch's global generator, and those of the loader and its sampler, are moved.
    """
    for generator in (torch.default_generator, *_generators(loader)):
        generator.manual_seed(_key(seed, name, first))
    batches = iter(loader)
    for number in count(first):
        torch.default_generator.manual_seed(_key(seed, name, number))
        batch = _next(batches, name, number)
        if batch is None:
            return
        yield batch


def first_batch(loader: DataLoader[Any], name: str) -> Sequence[Tensor]:
    """Return the first batch of a loader, and leave every generator of torch's as it was; raises ``DataError``."""
    generators = (torch.default_generator, *_generators(loader))
    states = [generator.get_state() for generator in generators]
    try:
        if _length(loader) == 0:
            raise DataError(f"the {name} data is empty; give it at least 1 example")
        batch = _next(iter(loader), name, 0)
        assert batch is not None, "a loader of some length gives a batch"
        return batch
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _key(seed: int, name: str, number: int) -> int:
    return int(Rng(seed, f"loader/{name}", number, None).integers(0, 2**31))


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    found = [loader.generator, getattr(loader.sampler, "generator", None)]
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def _length(loader: DataLoader[Any]) -> int:
    try:
        return len(loader)
    except TypeError:
        raise DataError(
            "a DataLoader of a data set without a length has no epochs; give the data set a __len__, or use Engine in "
            "a loop of your own"
        ) from None


def _next(batches: Iterator[Any], name: str, number: int) -> Sequence[Tensor] | None:
    """Return the next batch, ``None`` after the last one."""
    try:
        batch = next(batches, None)
    except CounterpointError:
        raise
    except Exception as error:
        reason = describe_error(error)
        if "Caught " in reason:  # an error of a worker, whose text ends with the error itself
            reason = str(error).rstrip().splitlines()[-1]
        raise DataError(f"the {name} data: batch {number} cannot be made: {reason}") from error
    if batch is None or _is_pair(batch):
        return batch
    raise DataError(
        f"the batches of the {name} data must be (input tensor, target tensor), and one is of type "
        f"{type(batch).__name__}; give the DataLoader a collate_fn that returns the two"
    )


def _is_pair(batch: Any) -> TypeGuard[Sequence[Tensor]]:
    return isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
