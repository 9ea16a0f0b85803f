"""Places in nested containers: finding the tensor at one, and a copy of the containers with another one there."""

from __future__ import annotations

import copy
import dataclasses
from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from counterpoint.core.errors import DataError

__all__ = ["Part", "Path", "name_of", "parts", "read", "written"]

Part = int | str
Path = Part | tuple[Part, ...]
"""A place in a batch: a position, a key or the name of a field; dotted or a tuple where it is nested."""


@runtime_checkable
class _NamedTuple(Protocol):
    """A tuple with names for its places."""

    _fields: tuple[str, ...]

    def _replace(self, **changes: Any) -> object: ...


def parts(path: Path) -> tuple[Part, ...]:
    """Return the parts of a path, outermost first."""
    if isinstance(path, str):
        return tuple(path.split("."))
    return path if isinstance(path, tuple) else (path,)


def name_of(path: Sequence[Part]) -> str:
    """Return a path as it is written."""
    return ".".join(map(str, path))


def _held(container: object) -> dict[Any, object] | None:
    """Return what a container holds by its keys, fields or positions; ``None`` for what holds no places."""
    if isinstance(container, Mapping):
        return dict(container)
    if isinstance(container, tuple) and isinstance(container, _NamedTuple):
        return dict(zip(container._fields, container, strict=True))
    if isinstance(container, tuple | list):
        return dict(enumerate(container))
    if dataclasses.is_dataclass(container) and not isinstance(container, type):
        return {field.name: getattr(container, field.name) for field in dataclasses.fields(container)}
    return None


def _key(container: object, part: Part) -> Part:
    """Return a part of a path as the container's places are keyed."""
    if isinstance(container, Mapping) and part in container:
        return part
    number = int(part) if isinstance(part, str) and part.isdecimal() else part
    if isinstance(container, tuple) and isinstance(container, _NamedTuple) and isinstance(number, int):
        return container._fields[number] if 0 <= number < len(container) else number
    return number


def read(batch: object, path: tuple[Part, ...]) -> Tensor:
    """Return the tensor at a place; raises ``DataError`` if there is none."""
    found = batch
    for depth, part in enumerate(path):
        held = _held(found)
        if held is None:
            raise _wrong(batch, path, f"{name_of(path[:depth])!r} is {_describe(found)}, which holds no places")
        key = _key(found, part)
        if key not in held:
            inside = f"in {name_of(path[:depth])!r} " if depth else ""
            raise _wrong(batch, path, f"there is no {part!r} {inside}among {', '.join(map(repr, held)) or 'nothing'}")
        found = held[key]
    if not isinstance(found, Tensor):
        raise _wrong(batch, path, f"there is {_describe(found)}, not a tensor")
    return found


def written(container: Any, path: tuple[Part, ...], tensor: Tensor) -> object:
    """Return a container like the given one, with a tensor at a place that is there."""
    if not path:
        return tensor
    held, key = _held(container), _key(container, path[0])
    assert held is not None
    return _replaced(container, key, written(held[key], path[1:], tensor))


def _replaced(container: Any, key: Any, value: object) -> object:
    """Return a shallow copy of a container with one place changed."""
    if isinstance(container, dict | UserDict | list):
        copied = copy.copy(container)
        copied[key] = value
        return copied
    if isinstance(container, Mapping):
        return type(container)({**container, key: value})  # type: ignore[call-arg]
    if isinstance(container, tuple) and isinstance(container, _NamedTuple):
        return container._replace(**{key: value})
    if isinstance(container, tuple):
        return type(container)((*container[:key], value, *container[key + 1 :]))
    copied = copy.copy(container)
    object.__setattr__(copied, key, value)  # also where the dataclass is frozen; no field is computed anew
    return copied


def _wrong(batch: object, path: Sequence[Part], why: str) -> DataError:
    return DataError(f"the batch has no tensor at {name_of(path)!r}: {why}; the batch is {_describe(batch)}")


def _describe(value: object, depth: int = 2) -> str:
    """Say what a value is, and what it holds."""
    name = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    held = _held(value)
    if held is None or not held:
        return f"{name}"
    if not depth:
        return f"{name} of {len(held)}"
    inside = ", ".join(f"{key!r}: {_describe(part, depth - 1)}" for key, part in held.items())
    return f"{name} with {inside}"
