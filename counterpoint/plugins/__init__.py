"""Names and what they stand for: algorithms, losses, models and data sets of all installed packages.

Packages register what they bring under the entry-point groups ``counterpoint.algorithms``, ``counterpoint.losses``,
``counterpoint.models`` and ``counterpoint.datasets``; the built-in ones come in through the same door. Listing names
reads metadata alone. A package is imported when one of its names is used, and not before.
"""

from __future__ import annotations

from counterpoint.plugins.registry import ALGORITHMS, DATASETS, LOSSES, MODELS, Entry, Registry, check, entries

__all__ = ["ALGORITHMS", "DATASETS", "LOSSES", "MODELS", "Entry", "Registry", "check", "entries"]
