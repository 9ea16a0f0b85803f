"""Check a config against the data and the machine: refuse what is impossible, and report what is reduced."""

from __future__ import annotations

import os

import torch
from torch import nn
from torch.optim import Optimizer

from counterpoint.core.remedies import Erase, Way, Write
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.validation_errors import setting_error
from counterpoint.trainer.optim import OptimizerConfig, trained_parameters

__all__ = ["batch_notes", "check_microbatches", "check_optimizer", "check_workers"]

_WORKERS_PER_CORE, _FEWEST_WORKERS = 8, 64


def check_workers(workers: int) -> None:
    """Raise ``ConfigError`` for more processes that load data than a machine can run."""
    cores = os.cpu_count() or 1
    most = max(_FEWEST_WORKERS, _WORKERS_PER_CORE * cores)
    if workers > most:
        message = f"workers: {workers} processes on a machine of {cores} cores; write {most} at most"
        raise setting_error(message, (Write(("workers",), most),))


def check_microbatches(accumulate: int, batch_size: int) -> None:
    """Raise ``ConfigError`` if a device batch has fewer examples than microbatches."""
    if accumulate > batch_size:
        raise setting_error(
            f"accumulate: {accumulate} microbatches, and a device batch has {batch_size} examples; write at most "
            f"{batch_size}",
            (Write(("accumulate",), batch_size),),
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


def check_optimizer(config: RunConfig, model: nn.Module, *, total: int, steps_per_epoch: int) -> None:
    """Check the optimizer and the schedule of a run of ``total`` steps on a single weight.

    The loop builds those of ``model``, after methods have changed it. Raises ``ConfigError`` if no parameter of the
    model is trained, the settings overflow float32 together, or the warm-up is longer than the run.
    """
    trained_parameters(model)
    optimizer, reason = _stepped(config.optimizer)
    if reason:
        message = f"optimizer: its settings are too large together: {reason}; lower lr or weight_decay"
        raise setting_error(message, *_lowered(config.optimizer))
    config.scheduler.build(optimizer, total=total, steps_per_epoch=steps_per_epoch)


def _stepped(config: OptimizerConfig) -> tuple[Optimizer, str]:
    """Return an optimizer after a step on a weight of 1, and what overflows in it; nothing if the weight is finite."""
    weights = nn.ParameterList([nn.Parameter(torch.ones(1))])
    optimizer = config.build(weights)
    weights[0].grad = torch.ones(1)
    try:
        optimizer.step()
    except (RuntimeError, OverflowError) as error:
        return optimizer, str(error)
    return optimizer, "" if weights[0].isfinite().all() else "a step makes a weight of 1 infinite"


def _lowered(config: OptimizerConfig) -> list[Way]:
    """Return the change to default settings of an optimizer after which a step is finite, if there is one."""
    for keys in (("lr",), ("weight_decay",), ("lr", "weight_decay")):
        kept = {key: value for key, value in dict(config).items() if key in config.model_fields_set and key not in keys}
        if config.model_fields_set >= {*keys} and not _stepped(type(config)(**kept))[1]:
            return [tuple(Erase(("optimizer", key)) for key in keys)]
    return []
