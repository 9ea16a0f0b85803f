"""Where the code of a run comes from: the distribution, version and source of each component, and of libraries."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.sources import digest, distribution_of, source_of, top_package, version_of
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.data.dataset import DataModule
from counterpoint.trainer.runs.data_record import examples_of

__all__ = ["code_changes", "provenance", "summary"]

LIBRARIES = ("accelerate", "numpy", "pillow", "torch")
"""Packages whose other versions may compute other numbers with the same code."""
_HOME = "counterpoint"
_APART = {"cli", "integrations", "study", "testing", "visual"}
"""Folders of Counterpoint that no run of the trainer needs."""
_FOREIGN = {"abc", "builtins", "enum", "pydantic", "torch", "typing"}
_MOST_FILES, _SHOWN = 500, 5


@dataclass(frozen=True)
class ComponentRecord:
    """The code of a component: ``source`` is a digest of the modules of its class and bases, ``None`` without any."""

    name: str
    distribution: str | None
    version: str | None
    source: str | None


def provenance(config: RunConfig, plan: Plan, data: DataModule, model: nn.Module) -> dict[str, Any]:
    """Return the versions and sources of a run's code as plain data.

    ``components`` has every method, the loss, the model, the data and so on. ``packages`` has the version of each
    package that registers one, and a digest of each of its files. ``libraries`` has the versions of others. The current
    files are read.
    """
    registered: dict[str, object] = {
        "loss": config.loss,
        "model": config.model,
        "data": config.data,
        "optimizer": config.optimizer,
        "scheduler": config.scheduler,
    }
    for member in plan.members:
        for part in (member, *member.leaves):
            registered[f"algorithms.{part.identity}"] = part.algorithm
    classes = {key: [type(found)] for key, found in registered.items() if found is not None}
    if config.model is None:
        classes["model"] = list(dict.fromkeys(map(type, model.modules())))
    if config.data is None:
        parts = {"data.train": data.train, "data.evaluation": data.evaluation}
        classes |= {key: [type(examples_of(part))] for key, part in parts.items()}
    owners = {top: distribution_of(top) for top in {top_package(kinds[0]) for kinds in classes.values()}}
    tops = {top_package(classes[key][0]) for key, found in registered.items() if found is not None}
    return {
        "components": {key: asdict(_component(kinds, owners)) for key, kinds in sorted(classes.items())},
        "packages": {top: {"version": owners[top][1], "files": _files(top)} for top in sorted(tops)},
        "libraries": {name: version_of(name) for name in LIBRARIES},
    }


def summary(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each component and library.

    >>> component = asdict(ComponentRecord("mine.wave:Wave", "mine", "1.0", "0123456789abcdef"))
    >>> summary({"components": {"algorithms.wave": component}, "libraries": {"torch": "2.6.0"}})
    ['algorithms.wave: mine.wave:Wave of mine 1.0, source 0123456789abcdef', 'torch 2.6.0']
    """
    lines = []
    for key, held in found["components"].items():
        owner = f"{held['distribution']} {held['version']}" if held["distribution"] else "no distribution"
        lines.append(f"{key}: {held['name']} of {owner}, {_source_words(held['source'])}")
    return [*lines, *(f"{name} {number}" for name, number in found["libraries"].items())]


def code_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between the code of two starts of a run, a line each."""
    lines = [
        f"{name}: was {number}, is {now['libraries'][name]}"
        for name, number in before["libraries"].items()
        if now["libraries"].get(name, number) != number
    ]
    changed = set()
    for top in before["packages"].keys() & now["packages"].keys():
        was, found = before["packages"][top], now["packages"][top]
        files = sorted(name for name, digest in _union(was, found) if (name, digest) not in _common(was, found))
        if was["version"] != found["version"]:
            lines.append(f"{top}: was version {was['version']}, is {found['version']}")
        elif files:
            names = list(dict.fromkeys(files))
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{top} {found['version']}: other source in {', '.join(names[:_SHOWN])}{more}")
        changed |= {top} if was != found else set()
    for key in sorted(before["components"].keys() & now["components"].keys()):
        lines += _component_changes(key, before["components"][key], now["components"][key], changed)
    return [f"  {line}" for line in sorted(lines)]


def _component_changes(key: str, was: Mapping[str, Any], now: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    if was["name"] != now["name"]:
        what = "the checkpoint is of another model: " if key == "model" else ""
        yield f"{key}: {what}was {was['name']}, is {now['name']}"
    elif now["name"].partition(".")[0].partition(":")[0] in known:
        return
    elif (was["distribution"], was["version"]) != (now["distribution"], now["version"]):
        yield (
            f"{key}: {now['name']} was of {was['distribution']} {was['version']}, is of {now['distribution']} "
            f"{now['version']}"
        )
    elif was["source"] != now["source"]:
        yield f"{key}: {now['name']} has another source"


def _union(was: Mapping[str, Any], now: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {*was["files"].items(), *now["files"].items()}


def _common(was: Mapping[str, Any], now: Mapping[str, Any]) -> set[tuple[str, str]]:
    return set(was["files"].items()) & set(now["files"].items())


def _source_words(source: str | None) -> str:
    return "no source" if source is None else f"source {source}"


def _component(kinds: list[type], owners: Mapping[str, tuple[str | None, str | None]]) -> ComponentRecord:
    first = kinds[0]
    name = f"{first.__module__}:{first.__qualname__}"
    return ComponentRecord(name, *owners[top_package(first)], _source(kinds))


def _source(kinds: Iterable[type]) -> str | None:
    """Return a digest of the source of classes and their bases, each with all of its module."""
    texts = {}
    for kind in kinds:
        for base in kind.__mro__:
            if top_package(base) not in _FOREIGN and (top_package(base) != _HOME or top_package(kind) == _HOME):
                name = base.__module__
                texts[f"{name}:{base.__qualname__}" if name == "__main__" else name] = source_of(base)
    known = {name: text for name, text in texts.items() if text is not None}
    if not known:
        return None
    return digest(b"".join(f"{name}\n{len(known[name])}\n".encode() + known[name] for name in sorted(known)))


def _files(top: str) -> dict[str, str]:
    """Return a digest of each Python file of a top-level package, or of a module and those beside it that it uses."""
    module = sys.modules.get(top)
    found: dict[str, str] = {}
    if module is None or top in _FOREIGN or top == "__main__":
        return found
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if not folders:
        return {path.name: digest(path.read_bytes()) for path in sorted(_beside(module))}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if top != _HOME or name.parts[0] not in _APART:
                found[name.as_posix()] = digest(path.read_bytes())
            if len(found) > _MOST_FILES:  # too many to read at each start: the modules of the classes must do
                return {}
    return found


def _beside(module: Any) -> set[Path]:
    """Return the file of a module, and those in its folder of modules that what it holds comes from."""
    home = Path(getattr(module, "__file__", None) or "")
    found, ahead = {home} if home.is_file() else set(), [module]
    while ahead and found:
        for value in list(vars(ahead.pop()).values()):
            name = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            other = sys.modules.get(name) if isinstance(name, str) else None
            path = Path(getattr(other, "__file__", None) or "")
            if path.parent == home.parent and path.suffix == ".py" and path not in found and path.is_file():
                found.add(path)
                ahead.append(other)
    return found
