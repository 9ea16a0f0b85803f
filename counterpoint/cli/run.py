"""The commands that read a config: ``train`` and ``check``."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from counterpoint.core.errors import CompositionError, ConfigError, DataError
from counterpoint.core.faults import Fault
from counterpoint.trainer.trainer import Trainer
from counterpoint.trainer.yaml import load_config

__all__ = ["check_config", "train_config"]


def train_config(path: str, overrides: Sequence[str], *, resume: bool, overwrite: bool) -> None:
    """Train as the config at ``path`` says."""
    _trainer(path, overrides).fit(resume=resume, overwrite=overwrite)


def check_config(path: str, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print the plan of a config; ``as_json`` also writes the faults of a wrong one to stdout."""
    try:
        plan = _trainer(path, overrides).plan
    except ConfigError as error:
        if as_json:
            faults = error.faults or (Fault("config", str(error), ""),)
            typer.echo(json.dumps({"file": path, "faults": [vars(fault) for fault in faults]}, indent=2))
        raise
    typer.echo(plan.to_json() if as_json else plan.explain())


def _trainer(path: str, overrides: Sequence[str]) -> Trainer:
    """Make everything that a run needs, before anything is trained or written; every fault names the file."""
    config = load_config(path, overrides)
    try:
        return Trainer(config)
    except (CompositionError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}", error.faults) from error
    except DataError as error:
        raise ConfigError(f"{path}: {error}") from error
