"""Data of the user's own: a batch size can be stated for it, and a DataLoader is taken as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import counterpoint as cp
from counterpoint import ConfigError, DataError
from counterpoint.trainer.data.dataset import DataModule, DataSpec
from counterpoint.trainer.data.user_loader import LoaderEpochs, first_batch
from counterpoint.trainer.setup.model_and_data import check_loaders
from tests.trainer.support import assert_equal, blobs, weights

pytestmark = pytest.mark.kind("17")


class Noisy(Dataset[tuple[Tensor, int]]):
    """Examples whose noise comes from torch's global generator."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(4) + index % 3, index % 3


class Seen(nn.Linear):
    """Keeps the first number of each example that it is trained on."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            super().__init__(4, 3)
        self.batches: list[list[float]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.batches.append(inputs[:, 0].tolist())
        return super().forward(inputs)


def train(loader: Any, folder: Path | None = None, *, resume: bool = False, **keys: Any) -> Seen:
    base = {"task": "multiclass", "max_duration": "2ep", "optimizer": {"name": "sgd", "lr": 0.1}, "seed": 5}
    base |= {} if folder is None else {"run_dir": str(folder)}
    model = Seen()
    arguments = {"model": model, "train_data": loader, "eval_data": blobs(8)}
    settings = {key: keys.pop(key) for key in ("batch_size",) if key in keys}
    cp.Trainer({**base, **keys}, **arguments, **settings).fit(resume=resume, allow_changes=resume)
    return model


def loader_of(**settings: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), **{"batch_size": 4, "shuffle": True, **settings})


def test_its_batches_are_trained_as_they_are() -> None:
    data = blobs(10)
    order = [9, 1, 2, 0, 4, 3, 5, 8, 7, 6]
    model = train(DataLoader(data, batch_size=4, sampler=order))
    first = data.tensors[0][order, 0].tolist()
    assert model.batches == [first[:4], first[4:8], first[8:]] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"generator": torch.Generator()},
        {"drop_last": True},
        {"num_workers": 1},
        {"batch_size": None, "shuffle": None, "batch_sampler": None},
    ],
    ids=["plain", "generator", "drop_last", "worker", "batch_sampler"],
)
def test_a_resumed_run_sees_the_same_batches(settings: dict[str, Any], tmp_path: Path) -> None:
    def make() -> DataLoader[Any]:
        if "batch_sampler" in settings:
            order = [[0, 5, 3], [4, 1], [9, 8, 7, 6], [2]]
            return DataLoader(Noisy(), batch_sampler=order)
        return loader_of(**settings)

    whole = train(make(), tmp_path / "whole", max_duration="9ba")
    train(make(), tmp_path / "cut", max_duration="7ba")
    rest = train(make(), tmp_path / "cut", resume=True, max_duration="9ba")
    assert whole.batches[7:] == rest.batches
    assert_equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert whole.batches[0] != whole.batches[len(make())]  # other noise in each epoch


def test_each_seed_has_its_own_order_and_no_global_generator_is_moved() -> None:
    before = torch.random.get_rng_state()
    first, again, other = train(loader_of()), train(loader_of()), train(loader_of(), seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.batches == again.batches
    assert first.batches != other.batches
    assert [len(batch) for batch in first.batches] == [4, 4, 4, 4, 4, 2] * 2


def test_the_first_batch_leaves_every_generator_as_it_was() -> None:
    generator = torch.Generator().manual_seed(3)
    loader = loader_of(generator=generator)
    states = generator.get_state(), torch.random.get_rng_state()
    first_batch(loader, "training")
    assert torch.equal(generator.get_state(), states[0])
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_an_epoch_is_told_to_its_sampler() -> None:
    class Told(list[int]):
        told: list[int]

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

    sampler = Told([3, 1, 2])
    sampler.told = []
    train(DataLoader(blobs(4), batch_size=2, sampler=sampler))
    assert sampler.told == [0, 1]


def test_an_evaluation_loader_is_measured_whole() -> None:
    data = blobs(10)
    model = Seen()
    config = {"task": "multiclass", "max_duration": "1ba", "eval_every": "1ba"}
    loader = DataLoader(data, batch_size=4, shuffle=True)
    summary = cp.Trainer(config, model=model, train_data=data, eval_data=loader).fit()
    with torch.no_grad():
        outputs = model.eval()(data.tensors[0])
    wanted = nn.functional.cross_entropy(outputs, data.tensors[1]).item()
    assert summary.metrics["evaluation_loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_batch_size_can_be_stated() -> None:
    assert [len(batch) for batch in train(blobs(32), batch_size=6, max_duration="1ep").batches] == [6] * 5
    assert [len(batch) for batch in train(blobs(300), max_duration="1ep").batches] == [128] * 2
    assert [len(batch) for batch in train(loader_of(), batch_size=4, max_duration="1ep").batches][:2] == [4, 4]


@pytest.mark.parametrize("size", [0, -1, 2.5, "4", True])
def test_a_batch_size_that_is_none(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"batch_size: .* is not allowed; give a whole number, at least 1"):
        train(blobs(32), batch_size=size)


def test_a_batch_size_is_stated_once() -> None:
    with pytest.raises(ConfigError, match="batch_size: 5 was given, and that of the DataLoader is 4; state one"):
        train(loader_of(), batch_size=5)
    with pytest.raises(ConfigError, match=r"batch_size: 5 was given, and the config's data.batch_size is 7; state one"):
        train(blobs(32), batch_size=5, data={"name": "digits", "batch_size": 7})


class Endless(IterableDataset[tuple[Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        while True:
            yield torch.zeros(4), 0


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (DataLoader(Endless(), batch_size=4), "without a length has no epochs; give the data set a __len__"),
        (DataLoader(blobs(0)), "training data is empty"),
        (DataLoader(blobs(4), collate_fn=len), "must be .input tensor, target tensor., and one is of type int"),
        (DataLoader([(torch.zeros(4), 0), (torch.zeros(5), 1)], batch_size=2), "batch 0 cannot be made: RuntimeError"),
    ],
    ids=["endless", "empty", "lengths", "shapes"],
)
def test_a_loader_that_cannot_train(loader: DataLoader[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        train(loader)


def test_several_processes_need_the_data_set() -> None:
    spec = DataSpec("multiclass", "features", (4,), 3)
    with pytest.raises(DataError, match=r"train: a DataLoader gives each of 2 processes the same; give the data set"):
        check_loaders(DataModule(loader_of(), blobs(4), spec), 2)
    with pytest.raises(DataError, match="evaluation: a DataLoader"):
        check_loaders(DataModule(blobs(4), loader_of(), spec), 2)
    check_loaders(DataModule(blobs(4), blobs(4), spec), 2)
    check_loaders(DataModule(loader_of(), loader_of(), spec), 1)


def test_a_start_in_the_middle_of_an_epoch() -> None:
    loader = loader_of()
    epochs = LoaderEpochs(loader, first_batch(loader, "training"), seed=3)
    assert (epochs.batch_size, epochs.batches) == (4, 6)
    with torch.random.fork_rng():
        epochs.start(2)
        whole = [inputs.tolist() for inputs, _ in epochs]
        epochs.start(2, batch=4)
        assert [inputs.tolist() for inputs, _ in epochs] == whole[4:]
        epochs.start(3)
        assert [inputs.tolist() for inputs, _ in epochs] != whole
