"""The run for a GPU machine: what of it needs no GPU, and that it reports what fails, is off or is absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import gpu, gpu_chain, gpu_checks
from benchmarks.batches import COMPILED, EAGER
from benchmarks.contenders import LENGTH, Ours
from benchmarks.gpu_chain import Setup, chain_methods, time_chain
from benchmarks.gpu_checks import METHODS, run_unwaited
from benchmarks.gpu_timing import Times, medians_on
from counterpoint.plugins import ALGORITHMS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

CPU = torch.device("cpu")
SMALL = Setup(CPU, count=16, side=32, copied=1 << 16, rounds=1, steps=4, backend="eager")


class Peer:
    """Another library: it does the chain, ``off`` by so much, from a generator that ``seeded`` seeds."""

    name = "timm"

    def __init__(self, dtype: torch.dtype, off: float = 0.0) -> None:
        self.dtype, self.off = dtype, off

    def normalize(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (gpu_chain.MEAN, gpu_chain.STD))
        return ((images / 255 - mean) / std + self.off).to(self.dtype)

    def erase(self, images: Tensor) -> Tensor:
        left, side = int(torch.randint(8, ())), int(LENGTH * images.shape[-1])
        images[:, :, :side, left : left + side] = 0
        return images

    def mix(self, images: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        share = float(torch.rand(()))
        rows = torch.nn.functional.one_hot(labels, 10).float() * (1 - smoothing) + smoothing / 10
        return share * images + (1 - share) * images.flip(0), share * rows + (1 - share) * rows.flip(0)

    def paste(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


@pytest.mark.slow
def test_all_of_it_runs_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--device", "cpu", "--small", "--backend", "eager", "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert found["failed"] == {}
    assert set(found["sections"]) == set(gpu.SECTIONS)
    assert {COMPILED, EAGER} <= set(found["sections"]["chain"]["ms"])
    assert set(found["sections"]["no waiting"]["found"].values()) == {"ok"}
    assert found["sections"]["graph"]["equal"] == [True, True, True]
    assert found["sections"]["recompiles"]["graphs"] == 1
    assert all(one["holds"] and one["equal"] for one in found["sections"]["equality"].values())
    printed = capsys.readouterr().out
    assert all(goal["line"] in printed for goal in found["goals"])
    assert len(found["goals"]) == 7


def test_a_section_that_fails_loses_nothing_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(setup: Setup) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu, "SECTIONS", {"broken": broken, "graph": gpu.SECTIONS["graph"]})
    assert gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert "out of memory" in found["failed"]["broken"]
    assert found["sections"]["graph"]["equal"] == [True, True, True]
    assert "FAILED: broken: RuntimeError: out of memory" in capsys.readouterr().out


@pytest.mark.slow
def test_only_peers_that_are_right_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"kornia": "No module named 'kornia'", "Composer's functions": "not compared"}
    for off, timed in ((0.0, 4), (0.5, 0)):
        monkeypatch.setattr(gpu_chain, "peers", lambda device, dtype, off=off: ([Peer(dtype, off)], absent))
        found, goals = time_chain(SMALL)
        assert len([name for name in found["ms"] if name.startswith("timm")]) == timed
        assert len([name for name in found["not_timed"] if name.startswith("timm")]) == 4 - timed
        assert found["not_timed"]["kornia"] == "absent: No module named 'kornia'"
        assert [goal.found is None for goal in goals] == [False, timed == 0, timed == 0]


@pytest.mark.slow
def test_ours_is_held_to_the_reference_too(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Ours.__call__
    monkeypatch.setattr(Ours, "__call__", lambda self, *given: (call(self, *given)[0] + 0.1, call(self, *given)[1]))
    monkeypatch.setattr(gpu_chain, "peers", lambda device, dtype: ([Peer(dtype)], {}))
    with pytest.raises(AssertionError, match="neither"):
        time_chain(SMALL)


def test_every_method_that_edits_batches_is_among_those_tried() -> None:
    loaded = {
        entry.name: ALGORITHMS.load(entry.name) for entry in ALGORITHMS.entries() if entry.package == "counterpoint"
    }
    tried = {algorithm.name for methods, _ in METHODS.values() for algorithm in methods}
    assert {name for name, one in loaded.items() if one.declaration.transforms} <= tried
    assert "one_of" in tried


@pytest.mark.slow
def test_a_method_that_fails_is_named_and_the_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waiting:
        plan = None

        def batch(self, inputs: Tensor, targets: Tensor) -> Any:
            raise RuntimeError("called a synchronizing CUDA operation\nand more")

    make = gpu_checks._engine
    monkeypatch.setattr(
        gpu_checks,
        "_engine",
        lambda methods, kind, device: Waiting() if methods == chain_methods() else make(methods, kind, device),
    )
    found, goals = run_unwaited(SMALL)
    assert found["found"].pop("the chain") == "RuntimeError: called a synchronizing CUDA operation"
    assert set(found["found"].values()) == {"ok"}
    assert goals[0].line.endswith("| 1 | MISSED |")


def test_times_are_medians_of_turns() -> None:
    turns: list[tuple[str, int]] = []
    times = medians_on(CPU, {name: lambda number, name=name: turns.append((name, number)) for name in "ab"}, rounds=2)
    assert turns == [(name, number) for number in range(5) for name in "ab"]
    assert all(isinstance(one, Times) and 0 <= one.host <= one.wall == one.device for one in times.values())


def test_a_gpu_is_timed_behind_a_pause_in_which_the_host_runs_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            did.append("record")

        def elapsed_time(self, other: Event) -> float:
            return 2.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: did.append("wait"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: did.append("pause") if cycles else pytest.fail("no pause"))
    found = medians_on(torch.device("cuda"), {"work": lambda number: did.append("work")}, rounds=1)["work"]
    assert found.device == 2.0
    assert 0 <= found.host <= found.wall < 2.0
    assert " ".join(did).endswith("wait work wait wait pause record work record wait")


def test_waiting_is_an_error_for_as_long_as_steps_run(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: modes.append("wait"))
    with pytest.raises(RuntimeError, match="waits"), gpu_checks._waiting_is_an_error(torch.device("cuda")):
        raise RuntimeError("it waits")
    assert modes == ["wait", "error", "default", "wait"]
