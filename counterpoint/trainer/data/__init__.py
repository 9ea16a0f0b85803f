"""Data sets, and how their examples are ordered, loaded and brought to the device.

Every name below is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterpoint.lazy import lazy_names

if TYPE_CHECKING:
    from counterpoint.trainer.data.digits import Digits
    from counterpoint.trainer.data.image_folder import ImageFolder

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "counterpoint.trainer.data.digits": ("Digits",),
        "counterpoint.trainer.data.image_folder": ("ImageFolder",),
    },
)

__all__ = ["Digits", "ImageFolder"]
