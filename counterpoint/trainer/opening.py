"""Whether a run starts, goes on or is finished, and its folder made ready for that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from counterpoint.core.errors import CheckpointError
from counterpoint.core.plan import Plan
from counterpoint.trainer.checkpoint import Checkpoint, latest_checkpoint, prune_checkpoints, set_aside
from counterpoint.trainer.config import RunConfig
from counterpoint.trainer.report import Report
from counterpoint.trainer.rundir import RunDirectory
from counterpoint.trainer.yaml import dump_config

__all__ = ["Begin", "find_begin", "make_ready"]


@dataclass(frozen=True)
class Begin:
    """Where a run begins: after a checkpoint, or at its first step; ``is_finished`` if nothing is left to do."""

    checkpoint: Checkpoint | None = None
    is_finished: bool = False

    def __str__(self) -> str:
        """Name the checkpoint."""
        return "no checkpoint" if self.checkpoint is None else f"the checkpoint of step {self.checkpoint.data['step']}"


def find_begin(
    folder: RunDirectory,
    report: Report,
    differences: Callable[[Checkpoint], list[str]],
    *,
    total: int,
    allow_changes: bool,
) -> Begin:
    """Find where the run in a folder is to be gone on with, for ``total`` steps; nothing is written.

    A finished run that is to be longer goes on after its last checkpoint. What differs between the run there and this
    one, as ``differences`` lists it, is told. Raises ``CheckpointError`` if anything does without ``allow_changes``, or
    no checkpoint is whole.
    """
    checkpoint, broken = latest_checkpoint(folder.checkpoints)
    for text in broken:
        report.message(f"{text}; an older one is used")
    if checkpoint is None:
        if folder.finished:
            raise CheckpointError(
                f"{folder.path} holds a finished run without checkpoints, so that there is nothing to go on from; "
                "choose another run_dir, or start afresh with --overwrite"
            )
        return Begin()
    changes = differences(checkpoint)
    if changes and not allow_changes:
        head = "the run to resume differs from this one, so that it would not go on as it began:"
        ways = "undo this, choose another run_dir, start afresh with --overwrite, or go on with --allow-changes"
        raise CheckpointError("\n".join([head, *changes, ways]))
    is_finished = folder.finished and total <= checkpoint.data["total"]
    if changes and not is_finished:
        report.message("\n".join(["this run goes on otherwise than it began:", *changes]))
    return Begin(checkpoint, is_finished)


def make_ready(folder: RunDirectory, config: RunConfig, plan: Plan, begin: Begin, *, overwrite: bool) -> None:
    """Make the folder that of this run, as it stood at its begin."""
    folder.open(overwrite=overwrite)
    metrics_size = 0
    if begin.checkpoint is not None:
        step, metrics_size = int(begin.checkpoint.data["step"]), int(begin.checkpoint.data["metrics_size"])
        folder.reopen(step)
        set_aside(folder.checkpoints, after=step)
        prune_checkpoints(folder.checkpoints)
    folder.start(dump_config(config), plan.to_json() + "\n", metrics_size=metrics_size)
