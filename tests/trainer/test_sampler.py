from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint import DataError, Rng
from counterpoint.trainer.data import ImageFolder
from counterpoint.trainer.data.dataset import RandomDataset
from counterpoint.trainer.data.examples import Failure
from counterpoint.trainer.data.sampler import EpochSampler, evaluation_loader, train_loader
from tests.trainer.support import blobs, write_images


def _epoch(sampler: EpochSampler, epoch: int, batch: int = 0) -> list[list[int]]:
    sampler.start(epoch, batch)
    assert len(sampler) == sampler.batches - batch
    batches = list(sampler)
    assert {key[0] for keys in batches for key in keys} <= {epoch}
    return [[index for _, index in keys] for keys in batches]


def test_an_epoch_sees_each_example_once() -> None:
    batches = _epoch(EpochSampler(24, 8, seed=1), 0)
    assert [len(batch) for batch in batches] == [8, 8, 8]
    assert sorted(index for batch in batches for index in batch) == list(range(24))


def test_the_order_is_keyed_by_seed_and_epoch() -> None:
    orders = {(seed, epoch): str(_epoch(EpochSampler(24, 8, seed=seed), epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert orders[1, 1] == str(_epoch(EpochSampler(24, 8, seed=1), 1))


def test_an_epoch_is_resumed_at_any_batch() -> None:
    sampler = EpochSampler(50, 8, seed=1)
    whole = _epoch(sampler, 3)
    for batch in range(len(whole) + 1):
        assert _epoch(sampler, 3, batch) == whole[batch:]


@pytest.mark.parametrize(
    ("length", "batch_size", "ranks", "size", "batches"),
    [(20, 8, 1, 8, 2), (7, 8, 1, 7, 1), (1, 8, 1, 1, 1), (40, 8, 2, 8, 2), (7, 8, 2, 3, 1)],
)
def test_incomplete_batches_are_left_out_but_for_an_only_one(
    length: int, batch_size: int, ranks: int, size: int, batches: int
) -> None:
    found = [_epoch(EpochSampler(length, batch_size, seed=0, rank=rank, ranks=ranks), 0) for rank in range(ranks)]
    assert [[len(batch) for batch in part] for part in found] == [[size] * batches] * ranks
    together = [index for part in found for batch in part for index in batch]
    assert len(set(together)) == len(together)


def test_processes_share_what_one_would_take() -> None:
    whole = _epoch(EpochSampler(32, 8, seed=0), 0)
    first, second = (_epoch(EpochSampler(32, 4, seed=0, rank=rank, ranks=2), 0) for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == whole


def test_fewer_examples_than_processes() -> None:
    with pytest.raises(DataError, match="holds 1 examples, and training takes at least 2"):
        EpochSampler(1, 8, seed=0, ranks=2)


@pytest.mark.slow
def test_batches_are_the_same_with_and_without_workers(tmp_path: Path) -> None:
    write_images(tmp_path, count=5)
    data = ImageFolder(root=str(tmp_path), size=8, batch_size=3).build().train

    def batches(workers: int, seed: int = 4) -> list[torch.Tensor]:
        sampler = EpochSampler(len(data), 3, seed=seed)
        loader = train_loader(data, sampler, seed=seed, workers=workers)
        found = []
        for epoch in range(3):
            sampler.start(epoch, batch=epoch % 2)
            found += [inputs for inputs, _ in loader]
        return found

    alone, helped, other = batches(0), batches(2), batches(0, seed=5)
    assert len(alone) == len(helped) == 8
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(alone, other, strict=True))


def test_each_epoch_makes_its_examples_anew(tmp_path: Path) -> None:
    write_images(tmp_path, classes=1, count=1)
    data = ImageFolder(root=str(tmp_path), size=8).build().train
    sampler = EpochSampler(1, 1, seed=4)
    loader = train_loader(data, sampler, seed=4, workers=0)
    seen = []
    for epoch in range(4):
        sampler.start(epoch)
        seen += [inputs for inputs, _ in loader]
    assert sum(torch.equal(seen[0], other) for other in seen) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_moves_no_global_generator(workers: int) -> None:
    torch_before, numpy_before, random_before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    data = blobs(16)
    list(train_loader(data, EpochSampler(16, 4, seed=0), seed=0, workers=workers))
    list(evaluation_loader(data, 4, workers=workers))
    assert torch.equal(torch_before, torch.get_rng_state())
    assert str(numpy_before) == str(np.random.get_state())  # noqa: NPY002
    assert random_before == random.getstate()


def test_evaluation_takes_all_in_order() -> None:
    data = blobs(11)
    targets = [targets.tolist() for _, targets in evaluation_loader(data, 4, workers=0)]
    assert targets == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1]]
    loaders = [evaluation_loader(data, 4, workers=0, rank=rank, ranks=2) for rank in (0, 1)]
    parts = [[label for _, targets in loader for label in targets.tolist()] for loader in loaders]
    assert parts == [[0, 2, 1, 0, 2, 1], [1, 0, 2, 1, 0]]


class _Broken:
    """Holds one example that cannot be made."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 4:
            raise ValueError("cut off")
        return torch.zeros(2), index


@pytest.mark.kind("30")
def test_an_example_that_cannot_be_made_is_named_by_its_index() -> None:
    sampler = EpochSampler(6, 1, seed=0)
    sampler.start(epoch=3)
    loaders = train_loader(_Broken(), sampler, seed=0, workers=0), evaluation_loader(_Broken(), 1, workers=0)
    for loader in loaders:
        (failed,) = [found.message for found in loader if isinstance(found, Failure)]
        assert failed.startswith("example 4 cannot be made: ValueError: cut off")


class _Noise(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3), index


@pytest.mark.kind("30")
def test_an_evaluation_loader_draws_the_same_in_every_run() -> None:
    """Batch n is drawn after the seed of its number under seed 0, whatever torch's global generator holds."""
    keys = [Rng(0, "loader/evaluation", number, None).integers(0, 2**31).item() for number in range(3)]
    wanted = [torch.rand(2, 3, generator=torch.Generator().manual_seed(int(key))) for key in keys]
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            loader = evaluation_loader(torch.utils.data.DataLoader(_Noise(), batch_size=2), 2, workers=0)
            found = [inputs for inputs, _ in loader]
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.kind("30")
def test_a_data_set_draws_from_the_seed_epoch_and_index() -> None:
    class Draws(RandomDataset):
        def __len__(self) -> int:
            return 6

        def example(self, index: int, rng: Rng) -> tuple[torch.Tensor, int]:
            return rng.integers(0, 2**31), index

    sampler = EpochSampler(6, 3, seed=8)
    loader = train_loader(Draws(), sampler, seed=9, workers=0)
    for epoch in (0, 2):
        sampler.start(epoch)
        found = {
            int(index): int(value) for values, indices in loader for value, index in zip(values, indices, strict=True)
        }
        assert found == {index: Rng(9, f"example/{index}", epoch, None).integers(0, 2**31).item() for index in range(6)}
