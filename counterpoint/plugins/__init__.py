"""Names and what they stand for: algorithms, losses, models and data sets of all installed packages.

Packages register their classes under the entry-point groups ``counterpoint.algorithms``, ``counterpoint.losses``,
``counterpoint.models`` and ``counterpoint.datasets``; the built-in ones are registered in the same way. Listing names
reads only metadata. A package is imported when one of its names is first used.
"""

from __future__ import annotations

from counterpoint.plugins.registry import ALGORITHMS, DATASETS, LOSSES, MODELS, Entry, Registry, check, entries

__all__ = ["ALGORITHMS", "DATASETS", "LOSSES", "MODELS", "Entry", "Registry", "check", "entries"]
