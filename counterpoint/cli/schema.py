"""The command ``schema``."""

from __future__ import annotations

import json
import sys

import typer

from counterpoint.plugins.guard import guarded
from counterpoint.trainer.config.json_schema import config_schema

__all__ = ["print_schema"]


def print_schema() -> None:
    """Print the JSON Schema of a config, and on stderr what is not in it because it cannot be used."""
    with guarded():
        schema, broken = config_schema()
    for error in broken:
        sys.stderr.write(f"left out: {error}\n")
    typer.echo(json.dumps(schema, indent=2))
