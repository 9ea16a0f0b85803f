"""The folder of a run: what is in it, and when it may be written."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from counterpoint.core.errors import RunDirectoryError, RunError
from counterpoint.trainer.checkpoint import write_file, write_tensors

__all__ = ["RunDirectory"]

CONFIG, PLAN, METRICS, CHECKPOINTS, MODEL = (
    "config.resolved.yaml",
    "plan.json",
    "metrics.jsonl",
    "checkpoints",
    "model.safetensors",
)
TRACKERS = "trackers"
FORMER_MODEL = "model-step-{}.safetensors"


class RunDirectory:
    """The folder of one run.

    It holds ``config.resolved.yaml``, ``plan.json``, ``metrics.jsonl`` (a line an epoch), ``checkpoints/``, and, once
    the run is finished, ``model.safetensors``. Every file is written under a temporary name and renamed, but for
    ``metrics.jsonl``, to which whole lines are added.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.model = self.path / MODEL
        self.metrics = self.path / METRICS
        self.trackers = self.path / TRACKERS

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return any((self.path / name).exists() for name in (CONFIG, PLAN, METRICS, CHECKPOINTS, MODEL))

    @property
    def finished(self) -> bool:
        """Whether a run was finished here."""
        return self.model.exists()

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raise ``RunDirectoryError`` if a run may not be started here; nothing is written.

        A folder that holds a run takes ``resume`` or ``overwrite``. A folder, or the nearest one above it that exists,
        must be writable.
        """
        if resume and overwrite:
            raise RunDirectoryError("--resume goes on with a run and --overwrite throws it away: give one of them")
        existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise RunDirectoryError(f"run_dir: {str(existing)!r} is a file; run_dir must be a folder, or not exist yet")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise RunDirectoryError(f"run_dir: {str(existing)!r} is not writable; choose another run_dir")
        if self.holds_run and not (resume or overwrite):
            raise RunDirectoryError(
                f"run_dir: {str(self.path)!r} holds a run already; go on with it by --resume, replace it by "
                "--overwrite, or choose another run_dir"
            )

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folder; with ``overwrite``, delete the run in it, and nothing else that is there."""
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                # The mark of a finished run goes first: whatever is left by a kill in between is an unfinished run.
                former = self.path.glob(FORMER_MODEL.format("*"))
                texts = (self.metrics, self.trackers, self.path / PLAN, self.path / CONFIG)
                for path in (self.model, *former, self.checkpoints, *texts):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)

    def reopen(self, step: int) -> None:
        """Take the mark of a run that was finished after ``step`` steps away; its final weights get another name."""
        with self._writing():
            if self.finished:
                self.model.rename(self.path / FORMER_MODEL.format(f"{step:08d}"))

    def start(self, config: str, plan: str, *, metrics_size: int) -> None:
        """Write the config and the plan, and cut ``metrics.jsonl`` to its first ``metrics_size`` bytes."""
        with self._writing():
            write_file(self.path / CONFIG, config)
            write_file(self.path / PLAN, plan)
            self.metrics.touch()
            if self.metrics.stat().st_size > metrics_size:
                os.truncate(self.metrics, metrics_size)

    def add_metrics(self, values: Mapping[str, float | int]) -> None:
        """Add a line to ``metrics.jsonl``; raises ``RunError`` if it cannot be written."""
        with self._going_on(), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: _finite(value) for name, value in values.items()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def last_metrics(self) -> dict[str, float]:
        """Return the values of the last line of ``metrics.jsonl``."""
        lines = self.metrics.read_text(encoding="utf-8").splitlines() if self.metrics.exists() else []
        values: dict[str, float] = json.loads(lines[-1]) if lines else {}
        return values

    @property
    def metrics_size(self) -> int:
        """The length of ``metrics.jsonl`` in bytes."""
        return self.metrics.stat().st_size

    def finish(self, model: Mapping[str, Tensor]) -> None:
        """Write the final weights, which marks the run as finished; raises ``RunError`` if they cannot be written."""
        with self._going_on():
            write_tensors(self.model, model)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(f"run_dir: {str(self.path)!r} cannot be written: {error.strerror}") from error

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"run_dir: {str(self.path)!r} cannot be written any more: {error.strerror}; the checkpoints there are "
                "whole: mend this, and go on with --resume"
            ) from error


def _finite(value: float | int) -> float | int | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
