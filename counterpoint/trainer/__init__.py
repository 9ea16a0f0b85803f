"""The run config, models, data sets, and the loop that Counterpoint ships.

``config`` reads and validates a run config. ``data`` and ``models`` have what a config can name, ``optim`` its
optimizers and schedules. ``setup`` builds the model, the data and the plan, and checks that they fit. ``runs`` is the
run folder, and ``loop`` trains. ``trainer`` puts them together.

Every name below is imported when it is first used, and reading a config does not load the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.trainer.component_config import ComponentConfig
    from counterpoint.trainer.config.run_config import RunConfig
    from counterpoint.trainer.config.yaml import load_config
    from counterpoint.trainer.data.dataset import DataModule, DatasetConfig, DataSpec, RandomDataset
    from counterpoint.trainer.data.digits import Digits
    from counterpoint.trainer.trainer import Summary, Trainer

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.trainer.component_config": ("ComponentConfig",),
        "counterpoint.trainer.config.run_config": ("RunConfig",),
        "counterpoint.trainer.config.yaml": ("load_config",),
        "counterpoint.trainer.data.dataset": (
            "DataModule",
            "DataSpec",
            "DatasetConfig",
            "RandomDataset",
        ),
        "counterpoint.trainer.data.digits": ("Digits",),
        "counterpoint.trainer.trainer": (
            "Summary",
            "Trainer",
        ),
    },
)

__all__ = [
    "ComponentConfig",
    "DataModule",
    "DataSpec",
    "DatasetConfig",
    "Digits",
    "RandomDataset",
    "RunConfig",
    "Summary",
    "Trainer",
    "load_config",
]
