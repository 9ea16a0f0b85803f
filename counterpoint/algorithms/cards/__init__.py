"""The methods' cards: one Markdown source each, with marked places for what is made from the code."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

__all__ = ["COMPOSABILITY", "HYPERPARAMETERS", "card_names", "example_settings", "read_card"]

HYPERPARAMETERS = "<!-- hyperparameters -->"
"""Where the table of a method's settings goes."""
COMPOSABILITY = re.compile(r"<!-- composability(?: (\{.*\}))? -->")
"""Where the checker's verdicts go; a method that has no use without settings gives those of an example as JSON."""


def card_names() -> tuple[str, ...]:
    """Return the names of the methods that have a card, sorted."""
    return tuple(
        sorted(path.name.removesuffix(".md") for path in files(__name__).iterdir() if path.name.endswith(".md"))
    )


def read_card(name: str) -> str:
    """Return the source of a built-in method's card, in which the marked places are still empty.

    >>> read_card("mixup").splitlines()[0]
    '# MixUp'
    """
    return files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")


def example_settings(name: str) -> dict[str, Any]:
    """Return the settings with which a method's card shows how it composes.

    >>> example_settings("one_of"), example_settings("mixup")
    ({'algorithms': ['mixup', 'cutmix']}, {})
    """
    mark = COMPOSABILITY.search(read_card(name))
    settings: dict[str, Any] = json.loads(mark[1]) if mark and mark[1] else {}
    return settings
