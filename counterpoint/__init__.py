"""Counterpoint: training methods that are each free and still fit together.

Importing it loads nothing else: every name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterpoint.composition import compose
    from counterpoint.core import (
        Algorithm,
        Batch,
        BatchSpec,
        Component,
        Duration,
        Edit,
        Engine,
        Event,
        Fault,
        Form,
        Law,
        LossSpec,
        Outcome,
        Plan,
        Rng,
        Scope,
        after,
        around,
        before,
        replace,
        transform,
    )
    from counterpoint.core.errors import (
        BrokenPluginError,
        CheckpointError,
        CompositionError,
        ConfigError,
        ContractError,
        CounterpointError,
        DataError,
        DeclarationError,
        DuplicateNameError,
        EngineRequiredError,
        NonFiniteLossError,
        PluginError,
        RunDirectoryError,
        RunError,
        UnknownNameError,
    )
    from counterpoint.core.kinds import (
        BATCH_SIZE,
        BYTES,
        CONTINUOUS,
        DENSE,
        EVALUATION_WEIGHTS,
        FEATURES,
        IMAGE,
        IMAGES,
        INDEX,
        MIXABLE,
        MIXING,
        MULTI_HOT,
        NORMALIZED,
        OPTIMIZER_STEP,
        REAL,
        SMOOTHING,
        TOKENS,
        UNIT,
        Axis,
        Claim,
        Field,
        Kind,
        Slot,
        Task,
    )
    from counterpoint.trainer import Trainer

__version__ = "0.1.0"

_HOMES = {
    "counterpoint.composition": "compose",
    "counterpoint.core": (
        "Algorithm Batch BatchSpec Component Duration Edit Engine Event Fault Form Law LossSpec Outcome Plan Rng Scope "
        "after around before replace transform"
    ),
    "counterpoint.core.errors": (
        "BrokenPluginError CheckpointError CompositionError ConfigError ContractError CounterpointError DataError "
        "DeclarationError DuplicateNameError EngineRequiredError NonFiniteLossError PluginError RunDirectoryError "
        "RunError UnknownNameError"
    ),
    "counterpoint.core.kinds": (
        "BATCH_SIZE BYTES CONTINUOUS DENSE EVALUATION_WEIGHTS FEATURES IMAGE IMAGES INDEX MIXABLE MIXING MULTI_HOT "
        "NORMALIZED OPTIMIZER_STEP REAL SMOOTHING TOKENS UNIT Axis Claim Field Kind Slot Task"
    ),
    "counterpoint.trainer": "Trainer",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "BATCH_SIZE",
    "BYTES",
    "CONTINUOUS",
    "DENSE",
    "EVALUATION_WEIGHTS",
    "FEATURES",
    "IMAGE",
    "IMAGES",
    "INDEX",
    "MIXABLE",
    "MIXING",
    "MULTI_HOT",
    "NORMALIZED",
    "OPTIMIZER_STEP",
    "REAL",
    "SMOOTHING",
    "TOKENS",
    "UNIT",
    "Algorithm",
    "Axis",
    "Batch",
    "BatchSpec",
    "BrokenPluginError",
    "CheckpointError",
    "Claim",
    "Component",
    "CompositionError",
    "ConfigError",
    "ContractError",
    "CounterpointError",
    "DataError",
    "DeclarationError",
    "DuplicateNameError",
    "Duration",
    "Edit",
    "Engine",
    "EngineRequiredError",
    "Event",
    "Fault",
    "Field",
    "Form",
    "Kind",
    "Law",
    "LossSpec",
    "NonFiniteLossError",
    "Outcome",
    "Plan",
    "PluginError",
    "Rng",
    "RunDirectoryError",
    "RunError",
    "Scope",
    "Slot",
    "Task",
    "Trainer",
    "UnknownNameError",
    "after",
    "around",
    "before",
    "compose",
    "replace",
    "transform",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names without importing them."""
    return [*__all__, "__version__"]
