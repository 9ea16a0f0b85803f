"""Draws in words, for what is said of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from counterpoint.core.containers import contents

__all__ = ["describe_draws"]

_FEW = 8


def describe_draws(draws: Mapping[str, Any]) -> str:
    """Put the draws of a step in a line; of long tensors it has the first numbers.

    >>> import torch
    >>> describe_draws({"mixup": {"lam": torch.tensor(0.25), "perm": torch.arange(100)}})
    'mixup: lam 0.25, perm [0, 1, 2, 3, 4, 5, 6, 7, …] of shape (100,)'
    """
    return "; ".join(f"{name}: {_line(value)}" for name, value in draws.items()) or "none"


def _line(value: object) -> str:
    if isinstance(value, Tensor):
        if value.numel() <= _FEW:
            return str(value.tolist())
        first = ", ".join(str(number) for number in value.flatten()[:_FEW].tolist())
        return f"[{first}, …] of shape {tuple(value.shape)}"
    parts = None if isinstance(value, list) else contents(value)  # lists hold no tensors of draws
    return str(value) if parts is None else ", ".join(f"{name} {_line(part)}" for name, part in parts.items())
