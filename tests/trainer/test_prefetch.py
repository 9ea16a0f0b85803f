"""Batches on their way to a device. There is no GPU here: CUDA is a list of the calls that would be made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from counterpoint.trainer.data import prefetch as module
from counterpoint.trainer.data.prefetch import prefetch

CUDA = torch.device("cuda", 0)


class Cuda:
    """Notes, in order, what is asked of the loader, of two streams and of the tensors moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._streams = ["compute"]
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side", self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(self._streams[-1], self))
        monkeypatch.setattr(torch.cuda, "stream", self._entered)
        monkeypatch.setattr(module, "send_to_device", self._sent)

    @contextmanager
    def _entered(self, stream: Stream) -> Iterator[None]:
        self._streams.append(stream.name)
        yield
        self._streams.pop()

    def _sent(self, batch: list[str], device: torch.device, *, non_blocking: bool) -> list[Moved]:
        assert (device, non_blocking) == (CUDA, True)
        self.calls.append(f"{self._streams[-1]} copies {batch[0]}")
        return [Moved(name, self) for name in batch]

    def load(self, count: int) -> Iterator[list[str]]:
        for number in range(count):
            self.calls.append(f"load {number}")
            yield [f"x{number}", f"y{number}"]

    def train(self, count: int) -> list[str]:
        for batch in prefetch(self.load(count), CUDA):
            assert self._streams == ["compute"]
            self.calls.append(f"train on {batch[0].name}")
        return self.calls


class Stream:
    def __init__(self, name: str, cuda: Cuda) -> None:
        self.name, self._cuda = name, cuda

    def wait_stream(self, other: Stream) -> None:
        self._cuda.calls.append(f"{self.name} waits for {other.name}")


class Moved:
    def __init__(self, name: str, cuda: Cuda) -> None:
        self.name, self._cuda = name, cuda

    def record_stream(self, stream: Stream) -> None:
        self._cuda.calls.append(f"{stream.name} holds {self.name}")


def test_on_a_cpu_it_is_the_loader() -> None:
    given = [[torch.arange(3.0) + number, torch.tensor(number)] for number in range(4)]
    moved = list(prefetch(given, torch.device("cpu")))
    assert len(moved) == 4
    for batch, wanted in zip(moved, given, strict=True):
        assert all(one is other for one, other in zip(batch, wanted, strict=True))


def test_on_a_cpu_no_batch_is_loaded_before_it_is_used() -> None:
    loaded: list[int] = []

    def load() -> Iterator[list[torch.Tensor]]:
        for number in range(3):
            loaded.append(number)
            yield [torch.tensor(number)]

    for used, (number,) in enumerate(prefetch(load(), torch.device("cpu"))):
        assert loaded == list(range(used + 1))
        assert number.item() == used


def test_on_cuda_the_next_batch_is_copied_beside_the_training_on_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Cuda(monkeypatch).train(3) == [
        "load 0",
        "side copies x0",
        "compute waits for side",
        "compute holds x0",
        "compute holds y0",
        "load 1",
        "side copies x1",
        "train on x0",
        "compute waits for side",
        "compute holds x1",
        "compute holds y1",
        "load 2",
        "side copies x2",
        "train on x1",
        "compute waits for side",
        "compute holds x2",
        "compute holds y2",
        "train on x2",
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_on_cuda_the_shortest_epochs(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    trained = [call for call in Cuda(monkeypatch).train(count) if call.startswith("train")]
    assert trained == ["train on x0"][:count]
