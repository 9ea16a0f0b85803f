"""Reading a run config: a YAML file, the overrides of the command line, and every way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import MappingNode, MarkedYAMLError, Node, SafeLoader, SequenceNode, YAMLError, compose

from counterpoint.core.errors import ConfigError
from counterpoint.trainer.components import DEFAULTS
from counterpoint.trainer.config import RunConfig

__all__ = ["dump_config", "load_config", "read_config"]

Key = tuple[str | int, ...]

_EXPLAINED = {
    "found duplicate key": "{problem}; a key may be set once: keep one of the two",
    "could not determine a constructor for the tag": "{problem}; tags are not allowed: write plain values",
    "expansion exceeds": "aliases multiply to more than 10000 values; write out the few that are needed",
    "recursive aliases": "{problem}; an alias may not stand inside its own anchor: write the values out",
}
_NO_INTERPOLATION = "interpolation with `${` is off, so that a config reads nothing but itself; write the value"


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check the config of a run; nothing is written.

    ``path`` is a YAML file in UTF-8 with a mapping at its top. Each override is ``key=value``, where the key is a
    path of names and list positions joined by dots (``algorithms.0.length``) and the value is YAML.

    Raises ``ConfigError`` with the file, the key, the value, what is allowed and the fix, for every fault at once.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "run.yaml")
    ...     _ = path.write_text("{task: multiclass, data: digits, model: mlp, optimizer: sgd, max_duration: 2ep}")
    ...     load_config(path, ["optimizer.lr=0.05"]).optimizer
    SGD(lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.0)
    """
    return RunConfig.parse(read_config(path, overrides), source=str(path), overrides=overrides)


def dump_config(config: RunConfig) -> str:
    """Return the YAML text of a config with every default written out; loading it gives an equal config."""
    return OmegaConf.to_yaml(OmegaConf.create(config.resolved()))


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config file and apply the overrides, as plain mappings, lists and values that nothing has checked yet.

    Raises ``ConfigError`` if the file is no YAML mapping of plain values, or an override has no place to go.
    """
    where = str(path)
    tree = _parse(_read(path), where)
    if not tree:
        raise ConfigError(f"{where}: the file is empty; write at least `data`, `model` and `max_duration`")
    for override in overrides:
        _apply(tree, override, f"{where}: override {override!r}")
    return tree


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; give the path of a config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8: byte {error.start} cannot be read") from None
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror}; give a file that can") from None


def _parse(text: str, where: str) -> dict[str, Any]:
    """Parse YAML without tags, duplicate keys, alias bombs or recursion, all of which OmegaConf's loader refuses."""
    try:
        top = compose(text, Loader=SafeLoader)
        if top is not None and not isinstance(top, MappingNode):
            raise ConfigError(f"{where}: a config is a mapping of keys to values, not a {_word(top)} at its top")
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except YAMLError as error:
        raise ConfigError(f"{where}: {_problem(error)}") from None
    except GrammarParseError as error:
        raise ConfigError(f"{where}: {error.full_key}: {_NO_INTERPOLATION}") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {error.full_key or 'top'}: {str(error.msg).splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{where}: nested too deeply to be a config") from None
    for key, value in _leaves(tree):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(f"{where}: {_dotted(key)}: {value!r}: {_NO_INTERPOLATION}")
        if value == "???":
            raise ConfigError(f"{where}: {_dotted(key)}: '???' stands for a value that is missing; write the value")
    return cast(dict[str, Any], tree)


def _word(top: Node) -> str:
    return "list" if isinstance(top, SequenceNode) else "single value"


def _problem(error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError) or error.problem is None:
        return f"not YAML: {error}"
    line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
    for fragment, explanation in _EXPLAINED.items():
        if fragment in error.problem:
            return line + explanation.format(problem=error.problem)
    return f"{line}not YAML: {error.problem}"


def _leaves(tree: object, place: Key = ()) -> Iterator[tuple[Key, object]]:
    """Yield every key and every value that is neither mapping nor list, with its place."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield (*place, key), key
            yield from _leaves(value, (*place, key))
    elif isinstance(tree, list):
        for position, value in enumerate(tree):
            yield from _leaves(value, (*place, position))
    else:
        yield place, tree


def _dotted(key: Iterable[object]) -> str:
    return ".".join(map(str, key))


def _apply(tree: dict[str, Any], override: str, where: str) -> None:
    """Write one override into the tree."""
    key, equals, text = override.partition("=")
    if not equals or not text.strip():
        missing = "the value" if equals else "`=`"
        raise ConfigError(f"{where}: {missing} is missing; write it as `{key}=VALUE`, or `{key}=null` for none")
    if not all(parts := key.split(".")):
        raise ConfigError(f"{where}: {key!r} is no key; write it as `optimizer.lr=0.05` or `algorithms.0.p=0.5`")
    value = _parse(f"value: {text}", where).get("value")
    if len(parts) > 1 and parts[0] in DEFAULTS:
        tree.setdefault(parts[0], DEFAULTS[parts[0]])
    place: Any = tree
    for depth, part in enumerate(parts[:-1]):
        place = _step_into(place, part, f"{where}: {_dotted(parts[: depth + 1])}")
    place[_position(place, parts[-1], f"{where}: {key}")] = value


def _step_into(place: Any, part: str, where: str) -> Any:
    """Return the mapping or list at ``part``, where a bare name becomes a mapping that settings can join."""
    position = _position(place, part, where)
    inner = place.get(position) if isinstance(place, dict) else place[position]
    if inner is None or isinstance(inner, str):
        inner = place[position] = {} if inner is None else {"name": inner}
    if not isinstance(inner, dict | list):
        raise ConfigError(f"{where}: is {inner!r}, a value that has no settings")
    return inner


def _position(place: dict[str, Any] | list[Any], part: str, where: str) -> Any:
    if isinstance(place, dict):
        return part
    if not (part.isascii() and part.isdecimal() and int(part) < len(place)):
        allowed = f"positions 0 to {len(place) - 1}" if place else "no position"
        raise ConfigError(f"{where}: {part!r} is no position of this list, which has {allowed}")
    return int(part)
