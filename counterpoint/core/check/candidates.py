"""Values that a setting may have instead of a wrong one, as its JSON Schema says; the nearest come first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from counterpoint.core.check.settings import is_far, schema_of
from counterpoint.core.errors import close_to

__all__ = ["values_for"]

_NUMBER = re.compile(r"\s*[-+]?\d{1,15}(\.\d{1,15})?([eE][-+]?\d{1,2})?\s*")
_SWITCHES = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_GENERIC: Mapping[str, tuple[object, ...]] = {"integer": (1,), "number": (1.0, 0.5), "boolean": (False,)}


def values_for(component: type[BaseModel], name: str, given: object) -> list[Any]:
    """Return values that a setting of a component's class may have; whether one fits is for the caller to check.

    First those near to what was given: the same number or word in the right form, the nearest word, the bound. Then
    the default, the examples of the schema, and simple values of the right type. Text has none but examples.

    >>> from counterpoint.algorithms import MixUp
    >>> values_for(MixUp, "alpha", "0.5")[:2], values_for(MixUp, "p", 3)[1] == 1
    ([0.5, 0.2], True)
    """
    schema = schema_of(component)
    held = schema["properties"][name]
    found = [value for choice in _choices(held, schema) for value in _near(choice, given)]
    found += [held["default"]] if "default" in held else []
    found += [value for choice in _choices(held, schema) for value in _usual(choice, schema)]
    return [value for place, value in enumerate(found) if not any(_same(value, other) for other in found[:place])]


def _same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


def _choices(held: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the alternatives of a schema, those of what it refers to included."""
    if "$ref" in held:
        yield from _choices(schema["$defs"][held["$ref"].rpartition("/")[2]], schema)
    elif "anyOf" in held:
        for choice in held["anyOf"]:
            yield from _choices(choice, schema)
    else:
        yield held


def _near(held: Mapping[str, Any], given: object) -> Iterator[Any]:
    """Yield what was given in the form of a schema, the word of it that is nearest, and the bound that it is beyond.

    A bound of 0 is left out: it mostly turns off what is set.
    """
    kind, text = held.get("type"), str(given) if isinstance(given, str | int | float) else ""
    words = [word for word in held.get("enum", ()) if isinstance(word, str)]
    yield from close_to(text, words)
    if kind in ("integer", "number") and _NUMBER.fullmatch(text):
        number = float(text)
        yield int(number) if kind == "integer" and number.is_integer() else number
    if kind == "boolean" and text.lower() in _SWITCHES:
        yield _SWITCHES[text.lower()]
    if kind == "array" and isinstance(given, str | int | float):
        yield [given]
    if isinstance(given, int | float):
        beyond = {"minimum": given < held.get("minimum", given), "maximum": given > held.get("maximum", given)}
        yield from (
            held[bound] for bound, is_beyond in beyond.items() if is_beyond and held[bound] and not is_far(held[bound])
        )


def _usual(held: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield values of a schema: constants, examples, simple numbers, and lists of these as short as it allows."""
    yield from held.get("enum", [held["const"]] if "const" in held else ())
    yield from held.get("examples", ())
    yield from _GENERIC.get(held.get("type", ""), ())
    if held.get("type") == "array" and isinstance(held.get("items"), Mapping):
        items = (value for choice in _choices(held["items"], schema) for value in _usual(choice, schema))
        yield from ([value] * max(held.get("minItems", 1), 1) for value in items)
