"""The command line: ``counterpoint train``, ``check``, ``list``, ``show`` and ``schema``."""

from __future__ import annotations

from counterpoint.cli.main import main

__all__ = ["main"]
