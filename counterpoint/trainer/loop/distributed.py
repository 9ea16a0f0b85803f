"""Check that the processes of a run are as many as were started, have the same state, and end together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, gather_object

from counterpoint.core.errors import ConfigError, CounterpointError, DataError, MethodError, RunError
from counterpoint.launcher import TASKS, asked_for_several, started_processes
from counterpoint.plugins.guard import ProcessExit
from counterpoint.trainer.loop.compat import reset_precision

__all__ = ["check_agreement", "check_count", "failures", "make_accelerator", "peers"]

_PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
_SEE = "see docs/distributed.md"


def make_accelerator(precision: str) -> Accelerator:
    """Make the object that knows devices, processes and mixed precision.

    Raises ``ConfigError`` for a precision that the device cannot compute in. Raises ``RunError`` if more processes were
    asked for than there are, or a way of sharding the model that the trainer does not support.
    """
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise RunError(
                f"{variable} asks for {name}, which would split the model among the processes, and the trainer gives "
                f"each the whole model; start without it, or shard the model in a loop of your own, with Engine: {_SEE}"
            )
    try:
        reset_precision(_PRECISIONS[precision])  # another trainer of this process may have had another
        accelerator = Accelerator(
            mixed_precision=_PRECISIONS[precision],
            # The trainer splits batches itself; given so, Accelerate divides no loss, whatever its variables say.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
    except ValueError as error:
        raise ConfigError(f"precision: {precision!r} cannot be used here: {error}") from error
    if precision == "fp16" and accelerator.scaler is None:
        raise ConfigError("precision: 'fp16' needs a GPU; write `precision: bf16` or `precision: fp32`")
    check_count(accelerator.num_processes, os.environ)
    return accelerator


def check_count(known: int, environment: Mapping[str, str]) -> None:
    """Check that as many processes are connected as were started; raises ``RunError``.

    Otherwise each would train alone, and all would write to one folder.

    >>> check_count(1, {"WORLD_SIZE": "2"})
    Traceback (most recent call last):
        ...
    counterpoint.core.errors.RunError: 2 processes were started, and Accelerate knows of 1; on CPUs, set ...
    """
    started = started_processes(environment, default=known)
    if started != known:
        raise RunError(
            f"{started} processes were started, and Accelerate knows of {known}; "
            "on CPUs, set ACCELERATE_USE_CPU=true for each of them"
        )
    if "WORLD_SIZE" in environment or known > 1:
        return
    for variable, name in TASKS.items():
        tasks = int(environment.get(variable, 1))
        if tasks > 1:
            raise RunError(
                f"{name} started {tasks} tasks ({variable}), which are not connected: each would train a model of "
                f"its own; start them with torchrun, or unset {variable} if each is a run of its own: {_SEE}"
            )
    if asked_for_several(environment):
        raise RunError(
            "`accelerate launch` was asked for more than one process and started one, as it does on CPUs; start them "
            f"with ACCELERATE_USE_CPU=true torchrun, or unset MASTER_ADDR if one is right: {_SEE}"
        )


def check_agreement(facts: Mapping[str, str]) -> None:
    """Check that all processes have found the same; each calls this with what it found. Raises ``RunError``."""
    found: list[Mapping[str, str]] = gather_object([dict(facts)])
    for name in facts:
        words = [each[name] for each in found]
        if len(set(words)) > 1:
            listed = ", ".join(f"process {number} {word}" for number, word in enumerate(words))
            raise RunError(
                f"the processes differ in the {name} that they found: {listed}; all need the same config, packages and "
                "data, and a run_dir on a file system that they share"
            )


@contextmanager
def peers(accelerator: Accelerator, go_back: Callable[[], str]) -> Iterator[None]:
    """Say what has happened when the connection to another process fails: raises ``RunError``.

    ``go_back`` returns what there is to go on from.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CounterpointError) or not _is_of_connection(error):
            raise
        number, count = accelerator.process_index, accelerator.num_processes
        raise RunError(
            f"process {number} of {count} ends, because another process of this run has ended or answers no more; the "
            f"output of that one says why; {go_back()} (the connection: {str(error).split('. ')[0]})"
        ) from error


@contextmanager
def failures(step: Callable[[], int], go_back: Callable[[], str]) -> Iterator[None]:
    """Say after how many steps the code of a model, a loss, a data set or a method failed, and what to go on from.

    Raises ``DataError`` and ``MethodError`` with both. An error that is not Counterpoint's keeps its type, with a note.
    """
    try:
        yield
    except (DataError, MethodError) as error:
        raise type(error)(f"{error}; this was after {step()} steps; {go_back()}") from error.__cause__ or error
    except CounterpointError:
        raise
    except (Exception, ProcessExit) as error:
        error.add_note(f"the run failed after {step()} steps; {go_back()}")
        raise


def _is_of_connection(error: RuntimeError) -> bool:
    """Whether an error is of the connection between processes; gloo raises plain errors, which its path tells apart."""
    return isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)
