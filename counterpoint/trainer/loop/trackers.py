"""Log the config, the plan and the metrics of a run to experiment trackers, through Accelerate. Off by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from counterpoint.core.errors import ConfigError
from counterpoint.core.run.plan import Plan
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.yaml import dump_config
from counterpoint.trainer.runs.changes import flat

__all__ = ["Trackers", "check_trackers", "tracking"]

PROJECT = "counterpoint"


def check_trackers(trackers: Sequence[str], run_dir: str | None) -> None:
    """Raise ``ConfigError`` for a tracker whose package is not installed, and for a run that has no folder."""
    installed = [str(name.value) for name in get_available_trackers()]
    if absent := [name for name in trackers if name not in installed]:
        raise ConfigError(f"trackers: not installed: {', '.join(absent)}; run `pip install {' '.join(absent)}`")
    if trackers and run_dir is None:
        raise ConfigError("trackers: they are kept beside the run; write the folder, such as `run_dir: runs/1`")


class Trackers:
    """The trackers that log a run; none, unless ``tracking`` names some."""

    def __init__(self, started: Sequence[GeneralTracker] = ()) -> None:
        self._started = started

    def log(self, values: Mapping[str, float | str], step: int) -> None:
        """Log values after ``step`` device batches."""
        for tracker in self._started:
            tracker.log(dict(values), step=step)


@contextmanager
def tracking(config: RunConfig, plan: Plan, folder: Path, *, step: int) -> Iterator[Trackers]:
    """Start the trackers of a config; those that keep files do it in ``folder``.

    They log the config and the plan if the run begins at its first step. If it goes on after ``step``, TensorBoard
    drops the entries of later steps.
    """
    trackers = [_make(name, folder, step) for name in config.trackers]
    try:
        for tracker in trackers:
            tracker.start()
            if not step:
                tracker.store_init_configuration(_hyperparameters(config, plan))
                tracker.log({"plan": _block(plan.explain()), "config": _block(dump_config(config))}, step=0)
        yield Trackers(trackers)
    finally:
        for tracker in trackers:
            tracker.finish()


def _make(name: str, folder: Path, step: int) -> GeneralTracker:
    tracker = LOGGER_TYPE_TO_CLASS[name]
    settings = {"purge_step": step + 1 if step else 0} if name == "tensorboard" else {}
    places = [folder] if tracker.requires_logging_directory else []
    return tracker(PROJECT, *places, **settings)


def _hyperparameters(config: RunConfig, plan: Plan) -> dict[str, Any]:
    """Return every setting by its dotted key, as values that each tracker takes."""
    settings = {**flat(config.resolved()), "plan": plan.fingerprint}
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
    }


def _block(text: str) -> str:
    """Write a text so that Markdown leaves it as it is."""
    return f"```\n{text}\n```"
