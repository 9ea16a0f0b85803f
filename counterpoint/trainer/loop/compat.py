"""Parts of Accelerate that its documentation does not promise.

``tests/trainer/test_compat.py`` fails if one of them is gone.
"""

from __future__ import annotations

from accelerate.state import AcceleratorState, is_initialized

__all__ = ["TRIED", "reset_precision"]

TRIED = ("1.15.0",)
"""The releases of Accelerate that this file was tried on."""


def reset_precision(wanted: str) -> None:
    """Let the next ``Accelerator`` of this process compute in another mixed precision than those before it.

    Accelerate keeps the precision of the first one, and refuses any other.
    """
    if is_initialized() and AcceleratorState().mixed_precision != wanted:
        AcceleratorState._reset_state()
