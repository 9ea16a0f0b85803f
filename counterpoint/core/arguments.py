"""Arguments of public functions that are plain values: whole numbers, numbers and flags."""

from __future__ import annotations

import math
import operator
import reprlib
from typing import SupportsIndex, TypeVar

import numpy as np
import torch

from counterpoint.core.errors import ArgumentError

__all__ = ["MOST", "flag", "function", "instance", "instances", "real_number", "shown", "whole_number", "written"]

_WRITTEN_OUT = 256
"""Bits up to which an integer is written out: Python refuses to write one of several thousand digits."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60

MOST = (1 << 63) - 1
"""The largest whole number that a tensor holds."""


def shown(value: object) -> str:
    """Return a value for a message: short, and in one line."""
    if isinstance(value, torch.Tensor) and (value.is_nested or value.layout is not torch.strided):
        return "a nested or sparse tensor"
    if isinstance(value, torch.Tensor | np.ndarray) and value.ndim:
        return f"{'a tensor' if isinstance(value, torch.Tensor) else 'a NumPy array'} of shape {tuple(value.shape)}"
    if isinstance(value, int) and value.bit_length() > _WRITTEN_OUT:
        return f"an integer of {value.bit_length()} bits"
    if value is not None and not isinstance(value, int | float | complex | str | bytes | torch.Tensor | torch.dtype):
        return f"an object of type {type(value).__name__}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def written(value: object) -> str:
    """Return a value for a message as it is written in Python, shortened; objects that cannot be written by their type.

    >>> written(["mixup", {"name": "cutmix"}]), written("x" * 200)
    ("['mixup', {'name': 'cutmix'}]", "'xxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxx'")
    """
    if isinstance(value, int | torch.Tensor | np.ndarray):
        return shown(value)
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # an integer of some thousand digits in it
        return shown(value)


_T = TypeVar("_T")


def instance(name: str, value: object, kind: type[_T], example: str) -> _T:
    """Return an argument that is an object of a class; raises ``ArgumentError`` for anything else.

    >>> instance("unit", "ep", str, "'ep'")
    'ep'
    """
    if not isinstance(value, kind):
        raise ArgumentError(f"{name} is {written(value)}; it is a {kind.__name__}, such as {example}")
    return value


def instances(name: str, value: object, kind: type[_T], example: str) -> frozenset[_T]:
    """Return an argument that is a frozenset of objects of a class; raises ``ArgumentError`` for anything else.

    >>> instances("words", frozenset({"a"}), str, "frozenset({'a'})")
    frozenset({'a'})
    """
    if not isinstance(value, frozenset) or not all(isinstance(each, kind) for each in value):
        raise ArgumentError(f"{name} is {written(value)}; it is a frozenset of {kind.__name__}, such as {example}")
    return value


def function(name: str, value: object, *, optional: bool = True) -> None:
    """Check that an argument can be called, or is ``None`` where it is ``optional``; raises ``ArgumentError``."""
    if not (callable(value) or (value is None and optional)):
        raise ArgumentError(f"{name} is {written(value)}; it is a function{' or None' if optional else ''}")


def whole_number(name: str, value: object, *, low: int = 0, high: int = MOST) -> int:
    """Return an argument that is a whole number, as an ``int``; NumPy's and torch's integers are taken too.

    Raises ``ArgumentError`` for a bool, a float, text, anything else, and a number below ``low`` or above ``high``.

    >>> import numpy
    >>> whole_number("step", numpy.int64(3))
    3
    """
    number = None if _is_bool(value) else _index(value)
    if number is None or not low <= number <= high:
        most = "" if high == MOST else f" and at most {high}"
        raise ArgumentError(f"{name} is {shown(value)}; it is a whole number of at least {low}{most}, such as {low}")
    return number


def _index(value: object) -> int | None:
    try:
        return operator.index(value) if isinstance(value, SupportsIndex) else None
    except (TypeError, ValueError, RuntimeError):  # a tensor of floats, of several numbers, or on the meta device
        return None


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, torch.Tensor) and value.dtype == torch.bool)


def flag(name: str, value: object) -> bool:
    """Return an argument that is true or false; raises ``ArgumentError`` for anything but a bool.

    >>> flag("donate", True)
    True
    """
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{name} is {shown(value)}; it is True or False")
    return bool(value)


def real_number(name: str, value: object, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Return an argument that is a number, as a ``float``; raises ``ArgumentError`` for NaN and beyond the bounds.

    >>> real_number("smoothing", 1, low=0, high=1)
    1.0
    """
    number = math.nan
    if not _is_bool(value) and isinstance(value, int | float | np.number | torch.Tensor):
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):  # complex, several numbers, or beyond any float
            number = math.nan
    if not low <= number <= high:
        bounds = "" if (low, high) == (-math.inf, math.inf) else f" from {low:g} to {high:g}"
        raise ArgumentError(f"{name} is {shown(value)}; it is a number{bounds}")
    return number
