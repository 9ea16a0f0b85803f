"""The settings of a component in words: what each may hold, and its default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from counterpoint.core.declare.durations import Duration

__all__ = ["MARK", "Setting", "WithPlainDefaults", "allowed_value", "far_limit", "is_far", "schema_of", "settings_of"]

MARK = "x-component"
"""The key of a JSON Schema that stands for any component of a role."""

_FAR = 10**6
"""Limits from here on only keep numbers within reason; they are worded where a number is beyond them."""

_WORDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "a mapping",
    "string": "text",
}
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} long",
    "maxItems": "at most {} long",
    "pattern": "of the form {}",
}


class WithPlainDefaults(GenerateJsonSchema):
    """Makes JSON Schemas whose defaults read as a config writes them."""

    def encode_default(self, dft: Any) -> Any:
        """Write a duration as text."""
        return str(dft) if isinstance(dft, Duration) else super().encode_default(dft)


@cache
def schema_of(component: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema of a component's class; it is not to be changed."""
    return component.model_json_schema(schema_generator=WithPlainDefaults)


@dataclass(frozen=True)
class Setting:
    """One setting: its name, what it may hold, its default as YAML (``None`` where it must be set), what it means."""

    name: str
    allowed: str
    default: str | None
    description: str

    def __str__(self) -> str:
        return self.allowed if self.default is None else f"{self.allowed} (default: {self.default})"


@cache
def settings_of(component: type[BaseModel]) -> dict[str, Setting]:
    """Describe the settings of a component's class, in the order of their definition.

    >>> from counterpoint.trainer.optim import SGD
    >>> print(settings_of(SGD)["momentum"])
    a number, at least 0, below 1 (default: 0.9)
    """
    schema = schema_of(component)
    required = schema.get("required", ())
    return {
        name: Setting(
            name,
            _allowed(held, schema.get("$defs", {})),
            None if name in required else json.dumps(held.get("default")),
            held.get("description", ""),
        )
        for name, held in schema["properties"].items()
    }


def allowed_value(component: type[BaseModel], path: Sequence[int | str], word: str) -> str:
    """Say what to give a setting, which ``word`` names: what it may hold and what it means.

    The setting stands at ``path`` of the component; of a part of a setting, the meaning of the whole is said.

    >>> from counterpoint.algorithms import CutOut
    >>> allowed_value(CutOut, ["num_holes"], "num_holes")
    'give num_holes, a whole number, at least 1, at most 10000 (default: 1): holes in each image'
    """
    setting = settings_of(component).get(str(path[0])) if path else None
    meaning = f": {setting.description}" if setting is not None and setting.description else ""
    allowed = f", {setting}" if setting is not None and len(path) == 1 else " an allowed value"
    return f"give {word}{allowed}{meaning}"


def _allowed(held: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in held:
        return _allowed(definitions[held["$ref"].rpartition("/")[2]], definitions)
    if MARK in held:
        return "a name, or a mapping with `name` and settings"
    if "anyOf" in held:
        return " or ".join(_allowed(choice, definitions) for choice in held["anyOf"])
    if "enum" in held or "const" in held:
        words = held.get("enum", [held.get("const")])
        return ("one of " if len(words) > 1 else "") + ", ".join(map(str, words))
    if "examples" in held:
        return "such as " + ", ".join(map(str, held["examples"]))
    if "minItems" in held and held["minItems"] == held.get("maxItems"):
        return f"a list of {held['minItems']}"
    limits = [
        words.format(_number(held[limit]))
        for limit, words in _LIMITS.items()
        if limit in held and not is_far(held[limit])
    ]
    return ", ".join([_WORDS.get(held.get("type", ""), "a value"), *limits])


def is_far(limit: object) -> bool:
    """Whether a limit only keeps numbers within reason."""
    return isinstance(limit, int | float) and abs(limit) >= _FAR


def far_limit(context: Mapping[str, Any]) -> str:
    """Word the limit that a number is beyond, from the context of pydantic's error; nothing if it is worded anyway.

    >>> far_limit({"le": 1e30}), far_limit({"le": 1.0})
    ('at most 1e+30', '')
    """
    words = {"le": "at most {:g}", "lt": "below {:g}", "ge": "at least {:g}"}
    return next((words[key].format(limit) for key, limit in context.items() if key in words and is_far(limit)), "")


def _number(limit: object) -> object:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit
