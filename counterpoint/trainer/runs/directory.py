"""The folder of a run: what is in it, and when it may be written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from torch import Tensor

from counterpoint.core.errors import RunDirectoryError, RunError
from counterpoint.trainer.runs.checkpoint import remove, write_file
from counterpoint.trainer.runs.exported_weights import write_model
from counterpoint.trainer.runs.history import History, Mark
from counterpoint.trainer.runs.integrity import DamagedError, read_bytes, unseal, unseal_text

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
DAMAGED_METRICS, DAMAGED_MODEL = "broken-metrics.jsonl", "broken-model.safetensors"


class RunDirectory:
    """The folder of one run.

    It holds ``config.resolved.yaml``, ``plan.json``, ``metrics.jsonl`` (a line an epoch), ``checkpoints/``, and, once
    the run is finished, ``model.safetensors``. Every file is written under a temporary name and renamed, except
    ``metrics.jsonl``, where complete lines are appended. Each has a format version and a checksum, that of the metrics
    in the checkpoints and in the final weights.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / CHECKPOINTS
        self.model = self.path / MODEL
        self.metrics = self.path / METRICS
        self.trackers = self.path / TRACKERS
        self.history = History(self.metrics)

    @property
    def holds_run(self) -> bool:
        """Whether a run was started here."""
        with self._reading():
            return any((self.path / name).exists() for name in (CONFIG, PLAN, METRICS, CHECKPOINTS, MODEL))

    @property
    def finished(self) -> bool:
        """Whether a run was finished here."""
        with self._reading():
            return self.model.exists()

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raise ``RunDirectoryError`` if a run may not be started here; nothing is written.

        A folder that holds a run takes ``resume`` or ``overwrite``. A folder, or the nearest one above it that exists,
        must be writable.
        """
        if resume and overwrite:
            raise RunDirectoryError("--resume goes on with a run and --overwrite throws it away: give one of them")
        with self._reading():
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

    def check_parts(self) -> None:
        """Raise ``RunDirectoryError`` if a folder is where a file of a run belongs, or a file where a folder does."""
        folders = {CHECKPOINTS: True, TRACKERS: True, CONFIG: False, PLAN: False, METRICS: False, MODEL: False}
        for name, is_folder in folders.items():
            path = self.path / name
            with self._reading():
                wrong = path.exists() and S_ISDIR(path.stat().st_mode) is not is_folder
            if wrong:
                found, wanted = ("file", "folder") if is_folder else ("folder", "file")
                raise RunDirectoryError(
                    f"run_dir: {path} is a {found}, and a run has a {wanted} there; move it away and go on with "
                    "--resume, or start afresh with --overwrite"
                )

    def damage_of_texts(self) -> dict[str, str]:
        """Return what is wrong with the config and the plan that are kept here, by the name of the file."""
        found = {}
        for name, read in ((CONFIG, unseal_text), (PLAN, unseal)):
            try:
                read(read_bytes(self.path / name))
            except DamagedError as error:
                found[name] = str(error)
        return found

    def open(self, *, overwrite: bool = False) -> None:
        """Make the folder; with ``overwrite``, delete the run in it, and nothing else that is there."""
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                # The mark of a finished run is deleted first: after a kill in between, the run counts as unfinished.
                former = [*self.path.glob(FORMER_MODEL.format("*")), self.path / DAMAGED_MODEL]
                texts = (self.metrics, self.path / DAMAGED_METRICS, self.trackers, self.path / PLAN, self.path / CONFIG)
                for path in (self.model, *former, self.checkpoints, *texts):
                    remove(path)

    def reopen(self, step: int, *, is_whole: bool = True) -> None:
        """Take the mark of a run that was finished after ``step`` steps away; its final weights get another name."""
        with self._writing():
            if self.finished:
                self.model.replace(self.path / (FORMER_MODEL.format(f"{step:08d}") if is_whole else DAMAGED_MODEL))

    def start(self, config: str, plan: str, *, metrics_size: int) -> None:
        """Write the config and the plan, and cut ``metrics.jsonl`` to its first ``metrics_size`` bytes."""
        with self._writing():
            self.write_texts(config, plan)
            self.history.open(metrics_size)

    def write_texts(self, config: str, plan: str) -> None:
        """Write the config and the plan."""
        with self._writing():
            write_file(self.path / CONFIG, config)
            write_file(self.path / PLAN, plan)

    def salvage_metrics(self, step: int) -> int:
        """Keep the whole lines of a damaged ``metrics.jsonl`` up to ``step`` steps; return their size in bytes."""
        with self._writing():
            return self.history.salvage(self.path / DAMAGED_METRICS, step)

    def add_metrics(self, values: Mapping[str, float | int]) -> None:
        """Add a line to ``metrics.jsonl``; raises ``RunError`` if it cannot be written."""
        with self._going_on():
            self.history.add(values)

    def last_metrics(self) -> dict[str, float]:
        """Return the numbers of the last line of ``metrics.jsonl``."""
        return self.history.last()

    @property
    def metrics_size(self) -> int:
        """The length of ``metrics.jsonl`` in bytes."""
        return self.metrics_mark.size

    @property
    def metrics_mark(self) -> Mark:
        """How long ``metrics.jsonl`` is, and its checksum."""
        return self.history.mark

    def finish(self, model: Mapping[str, Tensor], record: Mapping[str, Any] | None = None) -> None:
        """Write the final weights with a record of the run, which marks it as finished.

        Raises ``RunError`` if they cannot be written.
        """
        with self._going_on():
            write_model(self.model, model, record or {})

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"run_dir: {error.filename or self.path} cannot be read: {error.strerror}; make it readable, or choose "
                "another run_dir"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"run_dir: {str(self.path)!r} cannot be written: {error.strerror} ({error.filename}); make "
                "it writable, or choose another run_dir"
            ) from error

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"run_dir: {str(self.path)!r} cannot be written any more: {error.strerror}; the checkpoints there are "
                "whole: fix this, and go on with --resume"
            ) from error
