"""Check a config against the data and the machine: refuse what is impossible, and report what is reduced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from counterpoint.core.errors import ConfigError
from counterpoint.trainer.optim import OptimizerConfig

__all__ = ["batch_notes", "check_microbatches", "check_optimizer", "check_workers", "fitting"]

_WORKERS_PER_CORE, _FEWEST_WORKERS = 8, 64
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def check_workers(workers: int) -> None:
    """Raise ``ConfigError`` for more processes that load data than a machine can run."""
    cores = os.cpu_count() or 1
    most = max(_FEWEST_WORKERS, _WORKERS_PER_CORE * cores)
    if workers > most:
        raise ConfigError(f"workers: {workers} processes on a machine of {cores} cores; write {most} at most")


def check_microbatches(accumulate: int, batch_size: int) -> None:
    """Raise ``ConfigError`` if a device batch has fewer examples than microbatches."""
    if accumulate > batch_size:
        raise ConfigError(
            f"accumulate: {accumulate} microbatches, and a device batch has {batch_size} examples; write at most "
            f"{batch_size}"
        )


def batch_notes(asked: int, batch_size: int, ranks: int) -> list[str]:
    """Report that the data has fewer examples than a batch should have.

    >>> batch_notes(128, 100, 1)
    ['data.batch_size: 128 is more than the data has; each batch holds 100 examples, all there are']
    """
    if asked <= batch_size:
        return []
    share = "all there are" if ranks == 1 else f"its share of all there are in {ranks} processes"
    return [f"data.batch_size: {asked} is more than the data has; each batch holds {batch_size} examples, {share}"]


def check_optimizer(config: OptimizerConfig) -> None:
    """Take one step on a weight of its own; raises ``ConfigError`` if the settings overflow float32 together."""
    weights = nn.ParameterList([nn.Parameter(torch.ones(1))])
    optimizer = config.build(weights)
    weights[0].grad = torch.ones(1)
    try:
        optimizer.step()
        reason = "" if weights[0].isfinite().all() else "a step makes a weight of 1 infinite"
    except (RuntimeError, OverflowError) as error:
        reason = str(error)
    if reason:
        raise ConfigError(f"optimizer: its settings are too large together: {reason}; lower lr or weight_decay")


def fitting(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network, if its weights and as many gradients fit into memory; raises ``ConfigError`` if they do not."""
    with torch.device("meta"):
        size = 2 * sum(parameter.numel() * parameter.element_size() for parameter in make().parameters())
    memory = _memory()
    if size > memory:
        raise ConfigError(
            f"model: its weights and their gradients take {size / 2**30:.3g} GiB, and this machine has "
            f"{memory / 2**30:.3g}; make it smaller"
        )
    return make()


def _memory() -> int:
    """Return the bytes of memory that this process may have."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(_CGROUP.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such limit
        return whole
