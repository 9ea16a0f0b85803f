"""Draws in words, for what is said of a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

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
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, tuple):
        names = getattr(value, "_fields", range(len(value)))  # a NamedTuple has names for its parts
        value = dict(zip(names, value, strict=True))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_line(part)}" for name, part in value.items())
    return str(value)
