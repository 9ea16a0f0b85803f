"""The built-in methods: one file each, its pure functions first, its algorithm second.

Nothing is imported until it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from counterpoint.algorithms.cutmix import CutMix
    from counterpoint.algorithms.cutout import CutOut
    from counterpoint.algorithms.ema import EMA
    from counterpoint.algorithms.label_smoothing import LabelSmoothing
    from counterpoint.algorithms.mixup import MixUp
    from counterpoint.algorithms.one_of import OneOf

__all__ = ["EMA", "CutMix", "CutOut", "LabelSmoothing", "MixUp", "OneOf"]

_MODULES = {
    "EMA": "ema",
    "CutMix": "cutmix",
    "CutOut": "cutout",
    "LabelSmoothing": "label_smoothing",
    "MixUp": "mixup",
    "OneOf": "one_of",
}


def __getattr__(name: str) -> object:
    """Import a method when it is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the methods without importing them."""
    return sorted(__all__)
