"""Plain data that describes a value for a fingerprint: equal for values that compute the same."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence, Set
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from counterpoint.core.compat import child_places, tensor_tables

__all__ = ["described", "digest"]

_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has: modes, hooks and the tables of parameters, buffers and modules."""
_PLAIN = (nn.Parameter, nn.Buffer, Tensor)
"""Tensors that hold their own values; those of other classes may lie on several devices."""


def digest(data: object) -> str:
    """Return 16 hexadecimal digits that depend on plain data alone.

    >>> digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
    True
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def described(value: object) -> Any:
    """Return plain data for ``json.dumps`` that tells values apart that compute something else.

    Of a module: its class, its parameters and buffers with their values, its other attributes, and its modules; not
    whether it is in training mode. Of an object: its class and its attributes. Of a function: its name, its defaults
    and the values it closes over; not its code, and not the globals that it reads.

    >>> described(functools.partial(round, ndigits=2))
    {'partial': 'builtins.round', 'args': [], 'keywords': {'ndigits': 2}}
    >>> described(nn.MSELoss()) == described(nn.MSELoss(reduction="sum"))
    False
    """
    return _described(value, ())


def _described(value: object, above: tuple[int, ...]) -> Any:
    if isinstance(value, Enum):
        return f"{_name(type(value))}.{value.name}"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in above:
        return {"above": len(above) - above.index(id(value))}
    above = (*above, id(value))
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return _array(value)
    if isinstance(value, Mapping):
        return _mapping(value, above)
    if isinstance(value, Set):
        return sorted((_described(item, above) for item in value), key=_text)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_described(item, above) for item in value]
    return _callable(value, above) if _is_code(value) else _object(value, above)


def _is_code(value: object) -> bool:
    return isinstance(value, type | functools.partial) or inspect.isroutine(value)


def _mapping(value: Mapping[Any, Any], above: tuple[int, ...]) -> Any:
    if all(isinstance(key, str) for key in value):
        return {key: _described(item, above) for key, item in value.items()}
    return sorted(([_described(key, above), _described(item, above)] for key, item in value.items()), key=_text)


def _text(data: object) -> str:
    return json.dumps(data, sort_keys=True)


def _array(value: Tensor | np.ndarray[Any, Any] | np.generic) -> Any:
    """Describe numbers by their type, shape and bits; of tensors that hold none here, by type and shape alone."""
    if isinstance(value, np.ndarray | np.generic):
        data = np.ascontiguousarray(value).tobytes() if value.dtype != object else repr(value.tolist()).encode()
        return [str(value.dtype), list(value.shape), hashlib.blake2b(data, digest_size=8).hexdigest()]
    form = [str(value.dtype), list(value.shape)] if not nn.parameter.is_lazy(value) else ["lazy", []]
    if type(value) not in _PLAIN or value.is_meta or value.is_quantized or nn.parameter.is_lazy(value):
        return [*form, _name(type(value))]
    flat = (value.detach() if value.layout is torch.strided else value.detach().to_dense()).cpu().contiguous()
    data = flat.reshape(-1).view(torch.uint8).numpy().tobytes()
    return [*form, hashlib.blake2b(data, digest_size=8).hexdigest()]


def _callable(value: Any, above: tuple[int, ...]) -> Any:
    """Describe a class, a function, a method of an object, or a function with arguments bound to it."""
    if isinstance(value, functools.partial):
        bound = {"args": _described(value.args, above), "keywords": _described(value.keywords, above)}
        return {"partial": _described(value.func, above), **bound}
    owner = getattr(value, "__self__", None)
    if inspect.ismethod(value) and not isinstance(owner, type):
        return {"method": _name(value.__func__), "of": _described(owner, above)}
    held = {
        "defaults": getattr(value, "__defaults__", None),
        "keywords": getattr(value, "__kwdefaults__", None),
        "closure": [cell.cell_contents for cell in getattr(value, "__closure__", None) or () if _is_filled(cell)],
    }
    stated = {key: _described(item, above) for key, item in held.items() if item} if inspect.isfunction(value) else {}
    return {"function": _name(value), **stated} if stated else _name(value)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - the look itself raises where a name is not bound yet
    except ValueError:
        return False
    return True


def _object(value: object, above: tuple[int, ...]) -> Any:
    """Describe an object by its class and its attributes, and a module by its tensors and modules too."""
    named = dict(getattr(value, "__dict__", {}))
    slots = [name for cls in type(value).__mro__ for name in _slots(cls) if hasattr(value, name)]
    named |= {name: getattr(value, name) for name in slots}
    if isinstance(value, nn.Module):
        named = {name: item for name, item in named.items() if name not in _OF_TORCH}
        parameters, buffers = tensor_tables(value)
        named |= {**parameters, **buffers, **dict(child_places(value))}
    return {"class": _name(type(value)), **{name: _described(item, above) for name, item in sorted(named.items())}}


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if not name.startswith("__"))


def _name(value: Any) -> str:
    """Return ``module.name`` of a class or a function."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    return f"{module}.{name or type(value).__qualname__}"
