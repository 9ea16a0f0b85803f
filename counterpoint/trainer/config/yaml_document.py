"""Read YAML text as plain mappings, lists and values, and report everything else as an error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, NoReturn

import yaml

from counterpoint.core.errors import ConfigError

__all__ = ["dump_text", "parse_text"]

Key = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST, _LONGEST, _MOST_COPIES = 32, 4096, 10_000
_NO_INTERPOLATION = "interpolation with `${` is off, so that a config reads nothing but itself; write the value"

_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **{form(word): True for word in ("yes", "true", "on") for form in (str.lower, str.title, str.upper)},
    **{form(word): False for word in ("no", "false", "off") for form in (str.lower, str.title, str.upper)},
}
# Numbers of base 60 and octal ones with a leading zero, which YAML 1.1 has, are text here, as in YAML 1.2.
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]*[0-9a-fA-F])")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)


def parse_text(text: str, where: str, *, one_line: bool = False) -> Any:
    """Read one YAML document without tags, duplicate keys, interpolation, or aliases that multiply.

    ``where`` heads the message of each error. With ``one_line``, a text over several lines is an error too. Returns
    ``None`` for an empty text. Raises ``ConfigError`` with the line or the key at fault.

    >>> parse_text("{lr: 1e-3, steps: [1_000, 0x10], name: 1:30, on: yes}", "run.yaml")
    {'lr': 0.001, 'steps': [1000, 16], 'name': '1:30', True: True}
    """
    try:
        return _Document(yaml.parse(text, Loader=_LOADER), where, one_line).read()
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: not a text in UTF-8; save it in UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {_problem(error)}") from None


def dump_text(tree: Mapping[str, Any]) -> str:
    """Return YAML text that ``parse_text`` reads as an equal mapping.

    >>> print(dump_text({"lr": 1e-7, "name": "1e5", "steps": [1, 2]}), end="")
    lr: 1.0e-07
    name: '1e5'
    steps:
    - 1
    - 2
    """
    return yaml.dump(dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would be read as another value."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    if not text.isprintable():
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
    quoted = text in _WORDS or _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _represent_text)


def _problem(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return f"not YAML: {' '.join(str(error).split())}"
    line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
    if "nesting depth" in error.problem:  # PyYAML counts levels itself since 6.0.4
        return f"{line}nested too deeply to be a config"
    return f"{line}not YAML: {error.problem}"


def _value(text: str) -> Any:
    """Return what a text without quotes stands for."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text.replace("_", ""), 16 if "x" in text else 10)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan"))
    return text


class _Document:
    """One pass over the events of a YAML document."""

    def __init__(self, events: Iterator[Any], where: str, one_line: bool) -> None:
        self._events, self._where, self._one_line = events, where, one_line
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._open: list[str | None] = []
        self._read = self._copied = 0
        self._place: list[str | int] = []

    def read(self) -> Any:
        """Return the value of the document."""
        value = None
        is_read = False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if is_read:
                    self._refuse(event, "not YAML: expected a single document, but found another")
                value, is_read = self._node(next(self._events)), True
        return value

    def _node(self, event: Any) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag!r}; tags are not allowed: write plain values")
        before = self._read
        self._read += 1
        self._open.append(event.anchor)
        if len(self._open) > _DEEPEST:
            self._refuse(event, "nested too deeply to be a config")
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        else:
            value = self._mapping() if isinstance(event, yaml.MappingStartEvent) else self._list()
        if (anchor := self._open.pop()) is not None:
            self._anchors[anchor] = value, self._read - before
        return value

    def _scalar(self, event: Any) -> Any:
        if len(event.value) > _LONGEST:
            self._refuse(event, f"a value of {len(event.value)} characters; write {_LONGEST} at most")
        if "${" in event.value:
            self._refuse(event, f"{event.value!r}: {_NO_INTERPOLATION}")
        if event.value == "???":
            self._refuse(event, "'???' stands for a value that is missing; write the value")
        if self._one_line and event.end_mark.line > event.start_mark.line:
            self._refuse(
                event, "a text over several lines; write it on one, with \\n in double quotes for a line break"
            )
        return _value(event.value) if event.implicit[0] else event.value

    def _list(self) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._place.append(len(items))
            items.append(self._node(event))
            self._place.pop()
        return items

    def _mapping(self) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        merged: list[Any] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(event, "a key that is no single value; write a word")
            is_merge = event.value == "<<" and event.implicit[0]
            self._place.append(event.value[:80])
            key = self._node(event)
            if key in found:
                self._refuse(event, f"duplicate key {key}; a key may be set once: keep one of the two")
            value = self._node(next(self._events))
            if is_merge:
                merged += value if isinstance(value, list) else [value]
                if not all(isinstance(each, dict) for each in merged):
                    self._refuse(event, "`<<` takes a mapping, or a list of mappings")
            else:
                found[key] = value
            self._place.pop()
        for each in merged:
            found = {**each, **found}
        return found

    def _alias(self, event: Any) -> Any:
        if event.anchor in self._open:
            self._refuse(
                event, f"the alias {event.anchor!r} is recursive: it stands inside its own anchor; write it out"
            )
        if event.anchor not in self._anchors:
            self._refuse(event, f"not YAML: found undefined alias {event.anchor!r}")
        value, size = self._anchors[event.anchor]
        self._copied += size
        self._read += size
        if self._copied > _MOST_COPIES:
            self._refuse(
                event, f"aliases multiply to more than {_MOST_COPIES} values; write out the few that are needed"
            )
        return deepcopy(value)  # so that an override of one place changes no other

    def _refuse(self, event: Any, reason: str) -> NoReturn:
        place = ".".join(map(str, self._place))
        raise ConfigError(f"{self._where}: line {event.start_mark.line + 1}: {f'{place}: ' if place else ''}{reason}")
