"""Refuse a network whose weights do not fit into memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from counterpoint.core.errors import ConfigError

__all__ = ["fitting"]

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def fitting(make: Callable[[], nn.Module]) -> nn.Module:
    """Make a network, if its weights and as many gradients fit into memory; raises ``ConfigError`` if they do not."""
    with torch.device("meta"):
        size = 2 * sum(parameter.numel() * parameter.element_size() for parameter in make().parameters())
    memory = _memory()
    if size > memory:
        raise ConfigError(
            f"model: its weights and their gradients take {size / 2**30:.3g} GiB, and this machine has "
            f"{memory / 2**30:.3g}; make it smaller"
        )
    return make()


def _memory() -> int:
    """Return the bytes of memory that this process may have."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(_CGROUP.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such limit
        return whole
