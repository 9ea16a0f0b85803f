"""Find whether a run starts, is resumed or is finished, and prepare its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from counterpoint.core.errors import CheckpointError
from counterpoint.core.run.plan import Plan
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.yaml import dump_config
from counterpoint.trainer.runs.checkpoint import Checkpoint, latest_checkpoint, prune_checkpoints, set_aside
from counterpoint.trainer.runs.checkpoint_state import RunState, check_state
from counterpoint.trainer.runs.directory import DAMAGED_METRICS, RunDirectory
from counterpoint.trainer.runs.exported_weights import read_model
from counterpoint.trainer.runs.history import Mark
from counterpoint.trainer.runs.integrity import DamagedError, seal, seal_text
from counterpoint.trainer.runs.record import RunRecord

__all__ = ["Begin", "find_begin", "make_ready"]

Message = Callable[[str], None]
"""Shows a text to the user."""


@dataclass(frozen=True)
class Begin:
    """The start of a run: after a checkpoint, or at its first step.

    ``step`` are the device batches done. ``is_finished`` says that nothing is left to train, ``keeps_model`` that the
    final weights there are complete, and ``keeps_metrics`` the same of the metrics. ``keeps_texts`` says it of config
    and plan, or that they are those of another run, which is finished.
    """

    checkpoint: Checkpoint | None = None
    step: int = 0
    is_finished: bool = False
    keeps_model: bool = False
    keeps_metrics: bool = True
    keeps_texts: bool = False

    def __str__(self) -> str:
        """Name the checkpoint."""
        return "no checkpoint" if self.checkpoint is None else f"the checkpoint of step {self.checkpoint.data['step']}"


def find_begin(
    folder: RunDirectory,
    message: Message,
    differences: Callable[[Checkpoint], list[str]],
    *,
    total: int,
    allow_changes: bool,
) -> Begin:
    """Find where the run in a folder is to be gone on with, for ``total`` steps; nothing is written.

    A finished run that is to be longer goes on after its last checkpoint. Differences between the run there and this
    one, as ``differences`` lists them, are reported, and so is what is damaged. Final weights, a config and a plan that
    are damaged are written again. Raises ``CheckpointError`` if anything differs or the metrics are damaged without
    ``allow_changes``, or no checkpoint is whole, and ``RunDirectoryError`` for what cannot be read.
    """
    folder.check_parts()
    checkpoint, broken = latest_checkpoint(folder.checkpoints, check_state)
    for text in broken:
        message(f"{text}; an older one is used")
    if checkpoint is None:
        if folder.finished:
            raise CheckpointError(
                f"{folder.path} holds a finished run without checkpoints, so that there is nothing to go on from; "
                "choose another run_dir, or start afresh with --overwrite"
            )
        if folder.holds_run:
            message(f"{folder.path} has no checkpoint yet: the run starts afresh")
        return Begin()
    changes = differences(checkpoint)
    if changes and not allow_changes:
        head = "the run to resume differs from this one, so that it would not go on as it began:"
        ways = "undo this, choose another run_dir, start afresh with --overwrite, or go on with --allow-changes"
        raise CheckpointError("\n".join([head, *changes, ways]))
    state = RunState.model_validate(checkpoint.data)
    model = _final_model(folder, message, state)
    keeps_metrics = _check_metrics(folder, message, state, model, allow_changes=allow_changes)
    damaged = folder.damage_of_texts()
    is_finished = model is not None and keeps_metrics and total <= state.total
    for name, damage in damaged.items():
        after = "undo the changes, and it is written again" if is_finished and changes else "it is written again"
        message(f"{folder.path / name} is damaged ({damage}); {after}")
    if changes and not is_finished:
        message("\n".join(["this run goes on otherwise than it began:", *changes]))
    step = int(model["step"]) if model is not None and is_finished else state.step
    keeps_texts = is_finished and (not damaged or bool(changes))
    return Begin(checkpoint, step, is_finished, model is not None, keeps_metrics, keeps_texts)


def _final_model(folder: RunDirectory, message: Message, state: RunState) -> dict[str, Any] | None:
    """Return the record of the final weights, if there are any and they are whole."""
    if not folder.finished:
        return None
    try:
        _, record = read_model(folder.model)
        if (record["plan"], record["total"]) != (state.fingerprint, state.total):
            raise DamagedError("it is that of another run")
    except DamagedError as error:
        message(f"{folder.model} is damaged ({error}); it is written again from the checkpoint")
        return None
    return record


def _check_metrics(
    folder: RunDirectory, message: Message, state: RunState, model: dict[str, Any] | None, *, allow_changes: bool
) -> bool:
    """Return whether the metrics are as they were written; raises ``CheckpointError`` if not, and that is not allowed.

    They are compared with what the final weights say of them, or else the checkpoint.
    """
    try:
        if model is None:
            folder.history.check(state.mark)
        else:
            folder.history.check(Mark(**model["metrics"]), to_end=True)
    except DamagedError as error:
        text = f"{folder.metrics} is damaged ({error})"
        if not allow_changes:
            raise CheckpointError(
                f"{text}; restore it from a copy, start afresh with --overwrite, or go on with --allow-changes, which "
                "keeps its whole lines and moves it aside"
            ) from error
        message(f"{text}; its whole lines are kept, and {DAMAGED_METRICS} has all of it")
        return False
    return True


def make_ready(
    folder: RunDirectory, config: RunConfig, plan: Plan, record: RunRecord, begin: Begin, *, overwrite: bool
) -> None:
    """Prepare the folder for this run; in that of a finished run, only config and plan are written if damaged."""
    texts = seal_text(record.comment() + dump_config(config)), _plan_text(plan, record)
    if begin.is_finished:
        if not begin.keeps_texts:
            folder.write_texts(*texts)
        return
    folder.open(overwrite=overwrite)
    metrics_size = 0
    if begin.checkpoint is not None:
        state = RunState.model_validate(begin.checkpoint.data)
        metrics_size = state.mark.size
        folder.reopen(state.step, is_whole=begin.keeps_model)
        set_aside(folder.checkpoints, after=state.step)
        prune_checkpoints(folder.checkpoints)
        if not begin.keeps_metrics:
            metrics_size = folder.salvage_metrics(state.step)
    folder.start(*texts, metrics_size=metrics_size)


def _plan_text(plan: Plan, record: RunRecord) -> str:
    held = {**json.loads(plan.to_json()), "code": record.code, "data": record.data}
    return json.dumps(seal(held), indent=2) + "\n"
