"""No two processes write to one run directory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

import counterpoint as cp
from counterpoint import RunDirectoryError
from counterpoint.trainer.runs import lock
from counterpoint.trainer.runs.lock import locked
from tests.trainer.support import config

FORK = multiprocessing.get_context("fork")


def _hold(folder: Path, held: Event) -> None:
    os.setpgrp()
    with locked(folder):
        os.fork()  # as a process that loads data, which may outlive a parent that was killed
        held.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """A process that has locked a folder."""
    held = FORK.Event()
    process: Any = FORK.Process(target=_hold, args=(tmp_path / "run", held))
    process.start()
    assert held.wait(60)
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_in_use_is_refused(tmp_path: Path, holder: Any, keys: dict[str, bool]) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunDirectoryError) as raised:
        cp.Trainer(config(tmp_path / "run", max_duration="1ba")).fit(**keys)
    who = f"process {holder.pid} on {socket.gethostname()}"
    assert f"/run' is in use by another process ({who}); end it, wait for it, or choose" in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_lock_ends_with_its_process_and_not_with_those_it_has_started(tmp_path: Path, holder: Any) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / "run" / ".lock").exists()
    with locked(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.slow
def test_a_run_is_locked_as_long_as_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.trainer.loop.loop import Loop

    def fail(loop: Loop) -> None:
        assert (tmp_path / "run" / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_after_step", fail)
        with pytest.raises(ZeroDivisionError):
            cp.Trainer(config(tmp_path / "run")).fit()
    assert not (tmp_path / "run" / ".lock").exists()
    cp.Trainer(config(tmp_path / "run", max_duration="1ba")).fit(resume=True)
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_file_that_the_last_one_has_just_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever locks it then locks nothing that anybody else would."""
    take: Callable[..., bool] = lock._take

    def taken_late(file: Any) -> bool:
        (tmp_path / ".lock").unlink()
        return take(file)

    monkeypatch.setattr(lock, "_take", taken_late)
    with pytest.raises(RunDirectoryError, match="in use by another process"), locked(tmp_path):
        pytest.fail("two would be in")


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
