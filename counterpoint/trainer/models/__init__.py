"""Models that a config can name.

Every name below is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.trainer.models.mlp import MLP
    from counterpoint.trainer.models.resnet import ResNet18, ResNet50
    from counterpoint.trainer.models.small_cnn import SmallCNN

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.trainer.models.mlp": ("MLP",),
        "counterpoint.trainer.models.resnet": (
            "ResNet18",
            "ResNet50",
        ),
        "counterpoint.trainer.models.small_cnn": ("SmallCNN",),
    },
)

__all__ = ["MLP", "ResNet18", "ResNet50", "SmallCNN"]
