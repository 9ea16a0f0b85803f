"""The distribution, the version and the source of classes and functions."""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, packages_distributions
from pathlib import Path
from typing import Any

__all__ = ["digest", "distribution_of", "source_of", "top_package", "version_of"]


def digest(source: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a source."""
    return hashlib.sha256(source).hexdigest()[:16]


def top_package(defined: Any) -> str:
    """Return the top-level package of a class or function.

    >>> top_package(Path)
    'pathlib'
    """
    return str(defined.__module__).partition(".")[0]


def version_of(name: str) -> str | None:
    """Return the version of a distribution, or ``None`` if it is not installed."""
    return _named(name)[1]


def distribution_of(top: str) -> tuple[str | None, str | None]:
    """Return the name and the version of the distribution of a top-level package, each ``None`` if it has none.

    It is the distribution of the same name, or one with an entry point in the package, or one that lists the package
    among its files.
    """
    found = _named(top)
    if found[0] is None:
        named = (owner.metadata["Name"] for owner in distributions() if _registers(owner, top))
        found = _named(next(named, None) or next(iter(_installed().get(top, [])), ""))
    return found


def _registers(owner: Distribution, top: str) -> bool:
    return any(point.module.partition(".")[0] == top for point in owner.entry_points)


def source_of(defined: Any) -> bytes | None:
    """Return the source of the module of a class or function, or its own source if the module is a script.

    It is ``None`` for what has no source, such as a class that was typed at a prompt.
    """
    module = sys.modules.get(defined.__module__)
    try:
        if module is None or defined.__module__ == "__main__":
            return inspect.getsource(defined).encode()
        path = Path(inspect.getsourcefile(module) or "")
        return path.read_bytes() if path.is_file() else inspect.getsource(module).encode()
    except (OSError, TypeError):
        return None


def _named(name: str) -> tuple[str | None, str | None]:
    """Return the name, as it states it, and the version of a distribution, each ``None`` if it is not installed."""
    try:
        found = distribution(name).metadata
    except (PackageNotFoundError, ValueError):  # no distribution has an empty name
        return None, None
    return found["Name"], found["Version"]


@cache
def _installed() -> dict[str, list[str]]:
    """Return the distributions of each top-level package."""
    return dict(packages_distributions())
