"""The run config, models, data sets, and the loop that Counterpoint ships.

Every name below is imported when it is first used, so that reading a config does not load the loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterpoint.trainer.config import RunConfig
    from counterpoint.trainer.spec import DataModule, DatasetConfig, DataSpec, RandomDataset
    from counterpoint.trainer.trainer import Summary, Trainer
    from counterpoint.trainer.yaml import load_config

__all__ = [
    "DataModule",
    "DataSpec",
    "DatasetConfig",
    "RandomDataset",
    "RunConfig",
    "Summary",
    "Trainer",
    "load_config",
]

_HOMES = {
    "RunConfig": "config",
    "Summary": "trainer",
    "Trainer": "trainer",
    "load_config": "yaml",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'spec')}"), name)
    return value
