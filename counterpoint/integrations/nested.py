"""Places in nested containers: finding the tensor at one, and a copy of the containers with another one there."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from counterpoint.core.containers import contents
from counterpoint.core.errors import DataError

__all__ = ["Keys", "Part", "Path", "find", "held_tensors", "leaves", "name_of", "parts", "written"]

Part = int | str
Path = Part | tuple[Part, ...]
"""A place in a batch: a position, a key or the name of a field; dotted or a tuple where it is nested."""
Keys = tuple[Any, ...]
"""A place by the keys of its containers: a single path."""


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


def _key(container: object, part: Part) -> Part:
    """Return a part of a path as the container's places are keyed."""
    if isinstance(container, Mapping) and part in container:
        return part
    number = int(part) if isinstance(part, str) and part.isdecimal() else part
    if isinstance(container, tuple) and isinstance(container, _NamedTuple) and isinstance(number, int):
        return container._fields[number] if 0 <= number < len(container) else number
    return number


def find(batch: object, path: tuple[Part, ...]) -> tuple[Keys, Tensor]:
    """Return the tensor at a place, and the one path of that place, by the keys of its containers.

    Raises ``DataError`` if there is no tensor.
    """
    found, keys = batch, []
    for depth, part in enumerate(path):
        held = contents(found)
        if held is None:
            raise _wrong(batch, path, f"{name_of(path[:depth])!r} is {_describe(found)}, which holds no places")
        keys.append(_key(found, part))
        if keys[-1] not in held:
            inside = f"in {name_of(path[:depth])!r} " if depth else ""
            raise _wrong(batch, path, f"there is no {part!r} {inside}among {', '.join(map(repr, held)) or 'nothing'}")
        found = held[keys[-1]]
    if not isinstance(found, Tensor):
        raise _wrong(batch, path, f"there is {_describe(found)}, not a tensor")
    return tuple(keys), found


def leaves(batch: object) -> Iterator[Keys]:
    """Give the path of everything in a batch that holds no places itself."""
    held = contents(batch)
    if held is None:
        yield ()
        return
    for key, value in held.items():
        yield from ((key, *keys) for keys in leaves(value))


def held_tensors(batch: object) -> Iterator[tuple[Keys, Tensor]]:
    """Give the tensors in a batch, by the paths of their places."""
    if isinstance(batch, Tensor):
        yield (), batch
    for key, value in (contents(batch) or {}).items():
        yield from (((key, *keys), tensor) for keys, tensor in held_tensors(value))


def written(container: Any, keys: Keys, tensor: Tensor) -> object:
    """Return a container like the given one with a tensor at a place that ``find`` found.

    Raises ``DataError`` for a container that cannot be rebuilt.
    """
    if not keys:
        return tensor
    held = contents(container)
    assert held is not None
    value = written(held[keys[0]], keys[1:], tensor)
    try:
        return _replaced(container, keys[0], value)
    except TypeError as error:
        raise DataError(
            f"the {type(container).__name__} that holds {keys[0]!r} cannot be rebuilt from its items ({error}): use "
            "a dict, a list, a tuple, a named tuple or a dataclass"
        ) from error


def _replaced(container: Any, key: Any, value: object) -> object:
    """Return a shallow copy of a container with one place changed."""
    if isinstance(container, dict | UserDict | list):
        copied = copy.copy(container)
        copied[key] = value
        return copied
    if isinstance(container, Mapping):
        return type(container)({**container, key: value})  # type: ignore[call-arg]
    if isinstance(container, _NamedTuple):
        return container._replace(**{key: value})
    if isinstance(container, tuple):
        return type(container)((*container[:key], value, *container[key + 1 :]))
    copied = copy.copy(container)
    object.__setattr__(copied, key, value)  # no other way sets a field of a frozen dataclass without recomputing others
    return copied


def _wrong(batch: object, path: Sequence[Part], why: str) -> DataError:
    return DataError(f"the batch has no tensor at {name_of(path)!r}: {why}; the batch is {_describe(batch)}")


def _describe(value: object, depth: int = 2) -> str:
    """Say what a value is, and what it holds."""
    name = type(value).__name__
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    held = contents(value)
    if held is None or not held:
        return f"{name}"
    if not depth:
        return f"{name} of {len(held)}"
    inside = ", ".join(f"{key!r}: {_describe(part, depth - 1)}" for key, part in held.items())
    return f"{name} with {inside}"
