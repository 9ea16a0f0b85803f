"""The terms in which fixes are worded: those of a Python call, or of a config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

__all__ = ["Terms"]

_PLAIN = re.compile(r"[a-z][a-z0-9_]*|[0-9.]+(ba|ep|dur)")
_NO_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


class Terms(Enum):
    """How fixes are worded: as a Python call, or as lines of a config."""

    PYTHON = "python"
    YAML = "yaml"

    def setting(self, key: str, value: str) -> str:
        """Word a key with its value.

        >>> Terms.PYTHON.setting("task", "'multiclass'"), Terms.YAML.setting("task", "multiclass")
        ("task='multiclass'", '`task: multiclass`')
        """
        return f"{key}={value}" if self is Terms.PYTHON else f"`{key}: {value}`"

    def place(self, *parts: int | str) -> str:
        """Word where something stands: in a list by its position, in a mapping by its key.

        >>> Terms.PYTHON.place("algorithms", 0, "alpha"), Terms.YAML.place("algorithms", 0, "alpha")
        ('algorithms[0].alpha', 'algorithms.0.alpha')
        """
        words = [f"[{part}]" if isinstance(part, int) and self is Terms.PYTHON else f".{part}" for part in parts]
        return "".join(words).removeprefix(".")

    def text(self, key: str, word: str) -> str:
        """Word a key whose value is text."""
        return self.setting(key, repr(word) if self is Terms.PYTHON else word)

    def word(self, value: bool | set[str]) -> str:
        """Word a switch or a set of words.

        >>> Terms.YAML.word(False), Terms.YAML.word({"index", "dense"}), Terms.PYTHON.word({"dense"})
        ('false', '[dense, index]', "{'dense'}")
        """
        if isinstance(value, bool):
            return str(value) if self is Terms.PYTHON else str(value).lower()
        words = sorted(value)
        return f"[{', '.join(words)}]" if self is Terms.YAML else "{" + ", ".join(map(repr, words)) + "}"

    def item(self, component: Mapping[str, Any]) -> str:
        """Word an item of the list of algorithms: a bare name where it has no settings, else a mapping.

        >>> Terms.YAML.item({"name": "mixup"}), Terms.YAML.item({"name": "mixup", "id": "late", "start": "0.5dur"})
        ('mixup', '{name: mixup, id: late, start: 0.5dur}')
        >>> Terms.PYTHON.item({"name": "one_of", "algorithms": ({"name": "mixup"}, {"name": "cutmix"})})
        "{'name': 'one_of', 'algorithms': ['mixup', 'cutmix']}"
        """
        plain = _bare(component)
        return _flow(plain) if self is Terms.YAML else repr(plain)

    def plain(self, value: object) -> str:
        """Word a value of plain data.

        >>> Terms.YAML.plain([0.5, "mixup", None]), Terms.PYTHON.plain(["mixup"])
        ('[0.5, mixup, null]', "['mixup']")
        """
        return _flow(value) if self is Terms.YAML else repr(value)

    def choice(self, name: str, branches: Sequence[Mapping[str, Any]]) -> str:
        """Word a choice among items of the list of algorithms, by the method of that name."""
        worded = self.item({"name": name, "algorithms": branches})
        return f"`{worded}`" if self is Terms.YAML else worded


def _bare(value: Any) -> Any:
    """Return plain data in which items of a list that have a name and nothing else are that name."""
    if isinstance(value, Mapping):
        inner = {key: _bare(held) for key, held in value.items()}
        return inner["name"] if inner.keys() == {"name"} else inner
    return [_bare(held) for held in value] if isinstance(value, list | tuple) else value


def _flow(value: Any) -> str:
    """Write plain data as YAML on one line; words stand without quotes where YAML reads them as text."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(held)}" for key, held in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _NO_TEXT
    return str(value) if plain else json.dumps(value)
