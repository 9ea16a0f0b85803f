"""The built-in methods: one file each, its pure functions first, its algorithm second.

Each is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.algorithms.blurpool import BlurPool
    from counterpoint.algorithms.cutmix import CutMix
    from counterpoint.algorithms.cutout import CutOut
    from counterpoint.algorithms.ema import EMA
    from counterpoint.algorithms.gradient_clipping import GradientClipping
    from counterpoint.algorithms.label_smoothing import LabelSmoothing
    from counterpoint.algorithms.manifold_mixup import ManifoldMixup
    from counterpoint.algorithms.mixup import MixUp
    from counterpoint.algorithms.normalize import Normalize
    from counterpoint.algorithms.one_of import OneOf
    from counterpoint.algorithms.sam import SAM
    from counterpoint.algorithms.selective_backprop import SelectiveBackprop
    from counterpoint.algorithms.swa import SWA
    from counterpoint.algorithms.trivial_augment import TrivialAugment

__all__ = [
    "EMA",
    "SAM",
    "SWA",
    "BlurPool",
    "CutMix",
    "CutOut",
    "GradientClipping",
    "LabelSmoothing",
    "ManifoldMixup",
    "MixUp",
    "Normalize",
    "OneOf",
    "SelectiveBackprop",
    "TrivialAugment",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.algorithms.blurpool": ("BlurPool",),
        "counterpoint.algorithms.cutmix": ("CutMix",),
        "counterpoint.algorithms.cutout": ("CutOut",),
        "counterpoint.algorithms.ema": ("EMA",),
        "counterpoint.algorithms.gradient_clipping": ("GradientClipping",),
        "counterpoint.algorithms.label_smoothing": ("LabelSmoothing",),
        "counterpoint.algorithms.manifold_mixup": ("ManifoldMixup",),
        "counterpoint.algorithms.mixup": ("MixUp",),
        "counterpoint.algorithms.normalize": ("Normalize",),
        "counterpoint.algorithms.one_of": ("OneOf",),
        "counterpoint.algorithms.sam": ("SAM",),
        "counterpoint.algorithms.selective_backprop": ("SelectiveBackprop",),
        "counterpoint.algorithms.swa": ("SWA",),
        "counterpoint.algorithms.trivial_augment": ("TrivialAugment",),
    },
)
