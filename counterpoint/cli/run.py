"""The commands that read a config: ``train`` and ``check``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, distributed

from counterpoint.core.check.members import named
from counterpoint.core.containers import contents
from counterpoint.core.declare.batch import BatchSpec
from counterpoint.core.errors import (
    CompositionError,
    ConfigError,
    CounterpointError,
    DataError,
    RunDirectoryError,
    RunError,
)
from counterpoint.core.faults import Fault
from counterpoint.core.remedies import Remedy
from counterpoint.core.run.failures import describe_error
from counterpoint.plugins.guard import ProcessExit, exits_refused, guarded
from counterpoint.trainer.config.components import ComponentOf
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.validation_errors import config_error, plain_fault
from counterpoint.trainer.config.yaml import read_config

if TYPE_CHECKING:
    from counterpoint.trainer.trainer import Trainer

__all__ = ["check_config", "train_config"]


def train_config(
    path: str, overrides: Sequence[str], *, resume: bool, overwrite: bool, allow_changes: bool = False
) -> None:
    """Train as the config at ``path`` says."""
    trainer = _trainer(path, overrides)
    if trainer.config.run_dir is None:
        raise ConfigError(
            f"{path}: run_dir: is missing; write the folder to keep the run in, such as `run_dir: runs/1`"
        )
    _verify(path, trainer)
    try:
        with exits_refused():
            trainer.fit(resume=resume, overwrite=overwrite, allow_changes=allow_changes)
    except RunDirectoryError as error:
        raise RunDirectoryError(f"{path}: {error}") from error
    except CounterpointError:
        raise
    except (Exception, ProcessExit) as error:
        raise RunError("; ".join([describe_error(error), *getattr(error, "__notes__", ())])) from error
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # which NCCL asks for; after an error it would wait for the others


def check_config(
    path: str, overrides: Sequence[str], *, as_json: bool, pairs: bool, draw: int | None, whole_data: bool = False
) -> None:
    """Print the plan of a config; ``as_json`` also writes the faults of a wrong one to stdout.

    ``pairs`` gives the rule for every pair of steps, and ``draw`` the draws for that device batch. ``whole_data`` reads
    all of the data through, as training does before anything is written.
    """
    try:
        trainer = _trainer(path, overrides)
        if whole_data:
            _verify(path, trainer)
    except ConfigError as error:
        if as_json:
            faults = error.faults or (plain_fault(str(error).removeprefix(f"{path}: ")),)
            typer.echo(json.dumps({"file": path, "faults": list(map(_data, faults))}, indent=2, default=sorted))
        raise
    plan, spec = trainer.plan, trainer.data.spec
    draws = {}
    if draw is not None:
        batch = BatchSpec(plan.facts.batch_size or 1, spec.input_shape, spec.num_classes)
        draws = {name: _plain(drawn) for name, drawn in plan.draws(draw, batch).items()}
    if as_json:
        further = {name: value for name, value in (("draws", draws), ("notes", trainer.notes)) if value}
        typer.echo(json.dumps({**json.loads(plan.to_json()), **further}, indent=2))
        return
    typer.echo("\n".join([plan.explain(pairs=pairs), *trainer.notes]))
    for name, drawn in draws.items():
        typer.echo(f"step {draw}, {name}: {drawn}")


def _plain(drawn: Any) -> Any:
    """Return draws as plain data: tensors as lists, tuples with names and dataclasses as mappings."""
    if isinstance(drawn, Tensor):
        return drawn.tolist()
    parts = contents(drawn)
    if parts is None:
        return drawn
    if isinstance(drawn, tuple | list) and not hasattr(drawn, "_fields"):
        return [_plain(part) for part in drawn]
    return {str(key): _plain(part) for key, part in parts.items()}


def _data(fault: Fault) -> dict[str, Any]:
    """Return a fault as plain data, with the kind of each of its remedies; sets are left to the writer."""
    ways = [[_remedy(remedy) for remedy in way] for way in fault.ways]
    return {**asdict(fault), "remedies": [_remedy(remedy) for remedy in fault.remedies], "ways": ways}


def _remedy(remedy: Remedy) -> dict[str, Any]:
    return {"kind": type(remedy).__name__.lower(), **asdict(remedy)}


def _trainer(path: str, overrides: Sequence[str]) -> Trainer:
    """Make everything that a run needs, before anything is trained or written.

    Raises ``ConfigError`` with the name of the file and all faults of a wrong config, also those of its composition.
    """
    tree = read_config(path, overrides)
    try:
        config = RunConfig.parse(tree, source=path, overrides=overrides)
    except ConfigError as error:
        raise config_error(path, (*error.faults, *_further_faults(tree))) from None
    with _faults_of_file(path):
        return _built(config)


def _built(config: RunConfig) -> Trainer:
    """Make the trainer of a config."""
    from counterpoint.trainer.trainer import Trainer  # slow to import, which a wrong YAML file should not wait for

    with guarded():
        return Trainer(config)


def _verify(path: str, trainer: Trainer) -> None:
    """Read all of the data through."""
    with _faults_of_file(path), guarded():
        trainer.data.verify()


@contextmanager
def _faults_of_file(path: str) -> Iterator[None]:
    """Name the file in what is wrong with a config, its data or its machine, each fault with its code and its fix."""
    try:
        yield
    except CompositionError as error:
        raise config_error(path, error.faults) from None
    except (ConfigError, DataError, RunDirectoryError) as error:
        raise config_error(path, getattr(error, "faults", ()) or (plain_fault(str(error)),)) from error


def _further_faults(tree: Mapping[str, Any]) -> tuple[Fault, ...]:
    """Return what does not fit among the methods whose own settings are right, where the rest of the config is right.

    An order that refers to one of the wrong methods, which are left out here, is no fault of its own.
    """
    listed = tree.get("algorithms")
    items = listed if isinstance(listed, list) else []
    sound = [item for item in items if _is_sound(item)]
    try:
        _built(RunConfig.model_validate({**tree, "algorithms": sound}))
    except CompositionError as error:
        return tuple(
            fault
            for fault in error.faults
            if fault.code != "unknown-reference" or not named(items).issuperset(fault.algorithms)
        )
    except (ConfigError, DataError, RunDirectoryError, ValidationError):  # told before, or once this is right
        return ()
    return ()


def _is_sound(item: object) -> bool:
    try:
        TypeAdapter(Annotated[Any, ComponentOf("algorithms")]).validate_python(item)
    except ValidationError:
        return False
    return True
