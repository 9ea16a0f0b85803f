"""Read a run config: a YAML file and the overrides of the command line, with all of their errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from counterpoint.core.errors import ConfigError
from counterpoint.trainer.config.components import DEFAULTS
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.yaml_document import dump_text, parse_text

__all__ = ["dump_config", "load_config", "read_config"]

_LARGEST_FILE = 10_000_000
_DEEPEST_KEY = 16


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
    return dump_text(config.resolved())


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config file and apply the overrides, as plain mappings, lists and values that nothing has checked yet.

    Raises ``ConfigError`` if the file is no YAML mapping of plain values, or an override has no place to go.
    """
    where = str(path)
    tree = parse_text(_read(path), where)
    if tree is not None and not isinstance(tree, dict):
        word = "list" if isinstance(tree, list) else "single value"
        raise ConfigError(f"{where}: a config is a mapping of keys to values, not a {word} at its top")
    if not tree:
        raise ConfigError(f"{where}: the file is empty; write at least `data`, `model` and `max_duration`")
    for override in overrides:
        _apply(tree, override, f"{where}: override {override!r:.200}")
    return tree


def _read(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise ConfigError(f"{path}: more than {_LARGEST_FILE // 10**6} MB, which no config is; give another file")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; give the path of a config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8: byte {error.start} cannot be read") from None
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror}; give a file that can") from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{str(path)!r} is no path: {error}; give the path of a config") from None


def _dotted(key: Iterable[object]) -> str:
    return ".".join(map(str, key))


def _apply(tree: dict[str, Any], override: str, where: str) -> None:
    """Write one override into the tree."""
    key, equals, text = override.partition("=")
    if not equals or not text.strip():
        missing = "the value" if equals else "`=`"
        raise ConfigError(f"{where}: {missing} is missing; write it as `{key}=VALUE`, or `{key}=null` for none")
    parts = key.split(".")
    if not all(parts) or len(parts) > _DEEPEST_KEY:
        raise ConfigError(f"{where}: {key!r:.80} is no key; write it as `optimizer.lr=0.05` or `algorithms.0.p=0.5`")
    value = parse_text(text.strip(), where, one_line=True)
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
    if part not in map(str, range(len(place))):
        allowed = f"positions 0 to {len(place) - 1}" if place else "no position"
        raise ConfigError(f"{where}: {part!r} is no position of this list, which has {allowed}")
    return int(part)
