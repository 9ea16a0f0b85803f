"""Differences between the run that wrote a checkpoint and the run that resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from counterpoint.core.run.plan import Plan
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.runs.checkpoint import Checkpoint
from counterpoint.trainer.runs.record import RunRecord
from counterpoint.trainer.setup.global_batch import Split, split_changes

__all__ = ["differences", "flat"]

_MAY_DIFFER = {"run_dir", "workers", "eval_every", "checkpoint_every", "plugins", "strict_order", "trackers"}
"""Keys of a config that change no weight."""


def differences(
    checkpoint: Checkpoint, config: RunConfig, plan: Plan, split: Split, model: nn.Module, record: RunRecord
) -> list[str]:
    """Return what differs between the run that wrote a checkpoint and this one, a line each.

    ``record`` has the code and the data of this one.

    Another number of processes is no difference if training is the same up to rounding: on the same global batches, and
    with nothing that depends on their split.
    """
    began = Split(int(checkpoint.data["processes"]), int(checkpoint.data["batch_size"]))
    changes = split_changes(began, split, plan, model)
    alike = began.processes != split.processes and not changes
    ignored = _MAY_DIFFER | {"data.batch_size"} if alike else _MAY_DIFFER
    before, now = flat(checkpoint.data["config"]), flat(config.resolved())
    differing = [
        f"  {key}: was {before.get(key, 'not set')!r}, is {now.get(key, 'not set')!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not {key, key.partition(".")[0]} & ignored
    ]
    differing += [f"  processes: were {began.processes}, are {split.processes}: {change}" for change in changes]
    same_batches = replace(plan, facts=replace(plan.facts, batch_size=began.batch_size)) if alike else plan
    if not differing and checkpoint.data["fingerprint"] != same_batches.fingerprint:
        was = checkpoint.data["fingerprint"]
        differing = [f"  the plan: was {was}, is {plan.fingerprint} (other data, or another version)"]
    return [*differing, *record.changes(checkpoint.data)]


def flat(tree: object, key: str = "") -> dict[str, Any]:
    """Return every value of nested mappings and lists by its dotted key."""
    items: Any = None
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    if not items:
        return {key: tree}
    return {name: value for part, held in items for name, value in flat(held, f"{key}.{part}".lstrip(".")).items()}
