"""Ctrl-C and SIGTERM end a run between two batches, with a checkpoint from which it goes on bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import counterpoint as cp
from counterpoint import Engine, RunError
from counterpoint.trainer.loop import loop
from counterpoint.trainer.loop import signals as stop
from counterpoint.trainer.loop.metrics import EvaluationMetrics
from counterpoint.trainer.runs.checkpoint import list_checkpoints
from counterpoint.trainer.runs.directory import RunDirectory
from tests.trainer.support import METHODS, assert_same_end, config

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _config(folder: Path, **keys: Any) -> dict[str, Any]:
    """Evaluations after steps 6, 11, 17 and 22, checkpoints after 5, 10, 15, 20 and 22."""
    base = {"model": {"name": "small_cnn", "width": 4}, "algorithms": METHODS, "eval_every": "0.5ep"}
    return config(folder, **{**base, "checkpoint_every": "5ba", **keys})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    cp.Trainer(_config(folder)).fit()
    return folder


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[Any]]:
    """Handlers as a command line has them, which every test leaves as they are."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = [signal.signal(number, end) for number in SIGNALS]
    yield [end, end]
    assert [signal.getsignal(number) for number in SIGNALS] == [end, end]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


def _at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, step: int, act: Callable[[], object]) -> None:
    """Call ``act`` once, when ``owner.name`` is called after ``step`` device batches."""
    original, left = getattr(owner, name), [act]

    def acting(*args: Any, **kwargs: Any) -> Any:
        if left and running[-1].step == step:
            left.pop()()
        return original(*args, **kwargs)

    running: list[loop.Loop] = []
    train = loop.Loop._train

    def noted(self: loop.Loop, *args: Any) -> None:
        running.append(self)
        train(self, *args)

    monkeypatch.setattr(loop.Loop, "_train", noted)
    monkeypatch.setattr(owner, name, acting)


PLACES: dict[str, tuple[Any, str, int, int, int]] = {
    "in a batch": (Engine, "step", 6, 7, 0),
    "in a batch with workers": (Engine, "step", 16, 17, 2),
    "in an evaluation": (EvaluationMetrics, "update", 6, 6, 0),
    "in an evaluation with workers, at the end of an epoch": (EvaluationMetrics, "update", 11, 11, 1),
    "in the last evaluation": (EvaluationMetrics, "update", 22, 22, 0),
    "while metrics are written": (RunDirectory, "add_metrics", 17, 18, 0),
    "while a checkpoint is written": (loop, "write_checkpoint", 10, 11, 0),
}
"""Where a signal comes: what is called then, after how many steps; the step of the checkpoint, and the workers."""


@pytest.mark.slow
@pytest.mark.parametrize(("place", "number"), list(zip(PLACES, cycle(SIGNALS), strict=False)))
def test_a_stopped_run_ends_like_a_whole_one(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    owner, name, step, last, workers = PLACES[place]
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        _at(patched, owner, name, step, lambda: _send(number))
        with pytest.raises(SystemExit) as ended:
            cp.Trainer(_config(folder, workers=workers)).fit()
    assert ended.value.code == 128 + number
    assert list_checkpoints(folder / "checkpoints")[-1].name == f"step-{last:08d}"
    assert not (folder / "model.safetensors").exists()
    assert not multiprocessing.active_children()
    cp.Trainer(_config(folder)).fit(resume=True)
    assert_same_end(folder, whole)


@pytest.mark.slow
def test_it_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder, way in ((tmp_path / "run", "go on by --resume or fit(resume=True)"), (None, "nothing is kept")):
        with monkeypatch.context() as patched:
            _at(patched, Engine, "step", 2, lambda: _send(signal.SIGINT))
            with pytest.raises(SystemExit):
                cp.Trainer(_config(folder)).fit()
        out, err = capfd.readouterr()
        assert "SIGINT: stopped after step 3; " in out
        assert way in out
        assert err.strip() == "Ctrl-C: ending after this batch, with a checkpoint; once more ends at once"


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not one that a launcher passes on, which follows at once, and no second SIGTERM, as a KILL comes after it."""
    hours = iter(range(100))

    def send_three() -> None:
        monkeypatch.setattr(stop.time, "monotonic", lambda: 0.0)
        _send(signal.SIGINT)
        _send(signal.SIGINT)
        monkeypatch.setattr(stop.time, "monotonic", lambda: 3600.0 * next(hours))
        _send(signal.SIGTERM)
        _send(signal.SIGINT)
        pytest.fail("nothing ended")

    _at(monkeypatch, Engine, "step", 6, send_three)
    with pytest.raises(SystemExit) as ended:
        cp.Trainer(_config(tmp_path / "run")).fit()
    assert ended.value.code == 130
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000005"


@pytest.mark.slow
def test_the_programs_own_handler_is_called_when_all_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lets the program go on has the run end by an error."""
    seen: list[str] = []

    def own(number: int, frame: object) -> None:
        seen.append(list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name)

    before = signal.signal(signal.SIGTERM, own)
    _at(monkeypatch, Engine, "step", 6, lambda: _send(signal.SIGTERM))
    with pytest.raises(RunError, match="the run was ended by SIGTERM; go on with it by resume=True"):
        cp.Trainer(_config(tmp_path / "run")).fit()
    assert signal.signal(signal.SIGTERM, before) is own
    assert seen == ["step-00000007"]


def test_a_signal_that_the_program_ignores_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``nohup`` and shell scripts have it for what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    _at(monkeypatch, Engine, "step", 2, lambda: _send(signal.SIGINT))
    summary = cp.Trainer(_config(tmp_path / "run", max_duration="4ba")).fit()
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN
    assert summary.steps == 4


@pytest.mark.slow
def test_a_thread_can_train(tmp_path: Path) -> None:
    """Python lets nobody set handlers there."""
    found: list[cp.trainer.Summary] = []
    trainer = cp.Trainer(_config(tmp_path / "run", max_duration="2ba", workers=1))
    thread = threading.Thread(target=lambda: found.append(trainer.fit()))
    thread.start()
    thread.join()
    assert [summary.steps for summary in found] == [2]


def test_a_signal_before_an_error_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes first; the handlers are back, as the fixture checks."""

    def fail() -> None:
        _send(signal.SIGTERM)
        raise ZeroDivisionError

    _at(monkeypatch, Engine, "step", 2, fail)
    with pytest.raises(ZeroDivisionError):
        cp.Trainer(_config(tmp_path / "run")).fit()


@pytest.mark.parametrize("others", [0.0, 1.0])
def test_processes_stop_together(others: float) -> None:
    """A process ends where another one has received the signal, and adds its own to what all look at."""
    given: list[float] = []

    class Accelerator:
        num_processes, device = 2, "cpu"

        def reduce(self, own: torch.Tensor) -> torch.Tensor:
            given.append(own.item())
            return own + others

    waiting = stop.Stop()
    assert waiting.asked(cast(Any, Accelerator())) is bool(others)
    assert waiting.name == "another process"
    waiting.received = signal.SIGTERM
    assert waiting.asked(cast(Any, Accelerator()))
    assert waiting.name == "SIGTERM"
    assert given == [0.0, 1.0]
