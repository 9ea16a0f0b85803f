"""Runs trainings in processes that end by SIGKILL at a stated moment.

As a program it is a server: it imports everything once, then reads a job a line from stdin, forks for it, and writes
how it ended to stdout. ``Killer`` starts it and hands it jobs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import counterpoint as cp
from counterpoint import Engine
from counterpoint.algorithms import averaging
from counterpoint.trainer.loop.loop import Loop
from counterpoint.trainer.loop.metrics import EvaluationMetrics
from counterpoint.trainer.loop.nonfinite import LossWatch, describe_draws
from counterpoint.trainer.runs.directory import RunDirectory

PLACES: dict[str, tuple[Any, str]] = {
    "train": (Loop, "_train"),
    "step": (Engine, "step"),
    "measure": (Loop, "_after_step"),
    "evaluate": (EvaluationMetrics, "update"),
    "swap": (averaging, "_put"),
    "note": (RunDirectory, "add_metrics"),
    "save": (Loop, "_save"),
    "write": (Path, "write_bytes"),
    "write text": (Path, "write_text"),
    "flush": (os, "fsync"),
    "replace": (Path, "replace"),
    "rename": (Path, "rename"),
    "delete": (shutil, "rmtree"),
}
"""Where a run may be killed: when this function is called, or, where it writes, when it has written half."""


@dataclass(frozen=True)
class Job:
    """A run, begun or resumed, and when it is killed: at a call of a place, counted from 1, or after some seconds.

    ``log`` is a file without an end to which each step adds its loss and its draws.
    """

    config: dict[str, Any]
    log: str
    resume: bool = False
    place: str | None = None
    call: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class End:
    """The exit code, negative for a signal; the seconds it took; if it went well, how often each place was called."""

    code: int
    seconds: float
    calls: dict[str, int]


class Killer:
    """A server in a process of its own, with ``threads`` for torch in each run."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._errors = (folder / "killed.stderr").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def run(self, job: Job) -> End:
        """Run a job to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        end = End(**json.loads(answer)) if answer else End(1, 0.0, {})
        if end.code not in (0, -signal.SIGKILL):
            self._errors.seek(0)
            raise AssertionError(f"{job} ended with {end.code}:\n{self._errors.read()}")
        return end

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


def die() -> None:
    """End this process as a loss of power would."""
    os.kill(os.getpid(), signal.SIGKILL)


def watch(name: str, calls: Counter[str], fatal: int) -> None:
    """Count the calls of a place, and die at the one with the number ``fatal``."""
    owner, attribute = PLACES[name]
    original: Callable[..., Any] = getattr(owner, attribute)
    process = os.getpid()  # and not one that it starts to load data

    def watched(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        if calls[name] == fatal and os.getpid() == process:
            if name.startswith("write"):
                path, data = args[:2]
                original(path, data[: len(data) // 2])
            die()
        return original(*args, **kwargs)

    setattr(owner, attribute, watched)


def log_steps(path: str) -> None:
    """Write the loss and the draws of every step, a line each."""
    add = LossWatch.add

    def logged(
        self: LossWatch, step: int, loss: torch.Tensor, draws: dict[str, Any], inputs: torch.Tensor | None = None
    ) -> None:
        with open(path, "a") as file:
            file.write(f"{step}: {loss.item()!r} {describe_draws(draws)}\n")
        add(self, step, loss, draws, inputs)

    LossWatch.add = logged


def train(job: Job, threads: int) -> None:
    """Run a job in this process, and end it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(threads)
    calls: Counter[str] = Counter()
    for name in PLACES:
        watch(name, calls, job.call if name == job.place else 0)
    log_steps(job.log)
    code = 1
    try:
        cp.Trainer(job.config).fit(resume=job.resume)
        with Path(job.log + ".calls").open("w") as file:
            json.dump(calls, file)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        raise
    finally:
        os._exit(code)


def serve(threads: int) -> None:
    """Do one job after the other."""
    # One thread makes no pool of threads, which a fork would break; training here would start others.
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        cp.Trainer(job.config)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            train(job, threads)
        if job.seconds is not None:
            time.sleep(job.seconds)
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seconds = time.monotonic() - began
        calls = json.loads(Path(job.log + ".calls").read_text()) if code == 0 else {}
        print(json.dumps(asdict(End(code, seconds, calls))), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
