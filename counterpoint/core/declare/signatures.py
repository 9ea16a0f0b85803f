"""Checks of the arguments of public functions, one for each argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from counterpoint.core.arguments import flag, real_number, shown, whole_number
from counterpoint.core.errors import ArgumentError, DataError
from counterpoint.core.tensors.checks import FLOATING, INTEGER, check_tensor

__all__ = [
    "Check",
    "boxes_in",
    "check_device",
    "checked",
    "each",
    "flags",
    "image",
    "one_of",
    "partner",
    "real",
    "sequence",
    "share",
    "tensor",
    "whole",
]

P = ParamSpec("P")
R = TypeVar("R")
Check = Callable[[str, Any, Mapping[str, Any]], object]
"""Called with the name of an argument, its value and all arguments; returns the value to use, or raises."""


def checked(function: Callable[P, R], **checks: Check) -> Callable[P, R]:
    """Return a function whose arguments are checked first, in the order of ``checks``.

    A compiler sees the function alone: it has no use for errors about values.

    >>> halve = checked(lambda number: number / 2, number=real(0, 1))
    >>> halve(1)
    0.5
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        for name, check in checks.items():
            if name in bound.arguments:
                bound.arguments[name] = check(name, bound.arguments[name], bound.arguments)
        return function(*bound.args, **bound.kwargs)

    return call


def tensor(
    *axes: int, dtypes: Sequence[torch.dtype] = (), like: str = "", rows_of: str = "", classes: bool = False
) -> Check:
    """Return the check of a tensor.

    ``axes`` are the numbers of axes that it may have, ``dtypes`` its dtypes; any if none is given. It has the shape
    of the argument ``like``, or as many rows as ``rows_of``; with ``classes`` its second axis is not empty.
    """

    def check(name: str, value: Any, given: Mapping[str, Any]) -> Tensor:
        found = check_tensor(name, value)
        if axes and found.ndim not in axes:
            raise DataError(f"{name} has {' or '.join(map(str, axes))} axes, not the shape {tuple(found.shape)}")
        if dtypes and found.dtype not in dtypes:
            raise DataError(f"{name} holds {_words(dtypes)} numbers, not {found.dtype}")
        if like and found.shape != given[like].shape:
            raise DataError(f"{name} has the shape of {like}, {tuple(given[like].shape)}, not {tuple(found.shape)}")
        if rows_of and (found.ndim == 0 or len(found) != len(given[rows_of])):
            raise DataError(f"{name} has a row for each of {rows_of}, {len(given[rows_of])}, not {tuple(found.shape)}")
        if classes and (found.ndim < 2 or found.shape[1] == 0):
            raise DataError(
                f"{name} is dense, with the classes as second axis, (N, C, ...), not of shape {tuple(found.shape)}"
            )
        if like or rows_of:
            check_device(name, found, like or rows_of, given)
        return found

    return check


def check_device(name: str, found: Tensor, other: str, given: Mapping[str, Any], *, host: bool = False) -> None:
    """Raise ``DataError`` for a tensor on another device than ``other``; with ``host`` it may also lie on the CPU."""
    if found.device != given[other].device and not (host and found.device.type == "cpu"):
        raise DataError(f"{name} lies on {found.device} and {other} on {given[other].device}: move one of them")


def _words(dtypes: Sequence[torch.dtype]) -> str:
    """Say which dtypes are allowed: a word for all that are floating, and the others by name."""
    others = [str(dtype).removeprefix("torch.") for dtype in dtypes if dtype not in FLOATING]
    return " or ".join([*others, "floating"] if set(FLOATING) <= set(dtypes) else map(str, dtypes))


def image(*dtypes: torch.dtype) -> Check:
    """Return the check of images (N, C, H, W) of some dtypes, any if none is given; no axis but the first is empty."""
    plain = tensor(4, dtypes=dtypes)

    def check(name: str, value: Any, given: Mapping[str, Any]) -> object:
        found = plain(name, value, given)
        if isinstance(found, Tensor) and 0 in found.shape[1:]:
            raise DataError(f"{name} has pixels, (N, C, H, W), not the shape {tuple(found.shape)}")
        return found

    return check


def each(images: str, *, low: float = -1e6, high: float = 1e6, dtypes: Sequence[torch.dtype] = ()) -> Check:
    """Return the check of a number for each image, (N), between two bounds, which are checked on the CPU."""

    def check(name: str, value: Any, given: Mapping[str, Any]) -> Tensor:
        found = check_tensor(name, value)
        if found.shape != (len(given[images]),):
            raise DataError(
                f"{name} has a number for each of {images}, ({len(given[images])},), not {tuple(found.shape)}"
            )
        check_device(name, found, images, given)
        _check_numbers(name, found, low, high, dtypes)
        return found

    return check


def _check_numbers(name: str, found: Tensor, low: float, high: float, dtypes: Sequence[torch.dtype] = ()) -> None:
    if found.dtype not in (dtypes or (*FLOATING, *INTEGER)):
        raise DataError(f"{name} holds {'whole' if dtypes else 'real'} numbers, not {found.dtype}")
    if found.device.type == "cpu" and found.numel():
        wrong = ~((found.detach() >= low) & (found.detach() <= high))
        if wrong.any():
            raise DataError(f"{name} holds {found[wrong][0].item()}; it holds numbers from {low:g} to {high:g}")


def share(rows_of: str) -> Check:
    """Return the check of a share from 0 to 1: one number, or one for each sample, (N)."""

    def check(name: str, value: Any, given: Mapping[str, Any]) -> float | Tensor:
        if not isinstance(value, Tensor):
            return real_number(name, value, low=0, high=1)
        found, size = check_tensor(name, value), len(given[rows_of])
        if found.shape not in ((), (size,)):
            raise DataError(f"{name} is one number, or one for each of {rows_of}, ({size},), not {tuple(found.shape)}")
        check_device(name, found, rows_of, given, host=True)
        _check_numbers(name, found, 0, 1)
        return found if found.is_floating_point() else found.double()

    return check


def partner(rows_of: str) -> Check:
    """Return the check of an index for each sample, (N) int64, from -N to N - 1."""

    def check(name: str, value: Any, given: Mapping[str, Any]) -> Tensor:
        found, size = check_tensor(name, value), len(given[rows_of])
        if found.shape != (size,) or found.dtype != torch.int64:
            raise DataError(
                f"{name} holds an int64 index for each of {rows_of}, ({size},), not {found.dtype} of shape "
                f"{tuple(found.shape)}"
            )
        check_device(name, found, rows_of, given, host=True)
        _check_numbers(name, found, -size, size - 1, (torch.int64,))
        return found

    return check


def boxes_in(images: str, axes: int) -> Check:
    """Return the check of boxes, int64 XYXY within the images, (N or 1, 4), or with three axes (N or 1, K, 4)."""

    def check(name: str, value: Any, given: Mapping[str, Any]) -> Tensor:
        found, pixels = check_tensor(name, value), given[images]
        form = "(N or 1, 4)" if axes == 2 else "(N or 1, K, 4)"
        if found.ndim != axes or len(found) not in (1, len(pixels)) or found.shape[-1] != 4:
            raise DataError(f"{name} has the shape {form} for {len(pixels)} images, not {tuple(found.shape)}")
        if found.dtype != torch.int64:
            raise DataError(f"{name} holds int64 positions, not {found.dtype}: give {name}.long()")
        check_device(name, found, images, given)
        for part, extent in ((found[..., 0::2], pixels.shape[-1]), (found[..., 1::2], pixels.shape[-2])):
            _check_numbers(name, part, 0, extent, (torch.int64,))
        return found

    return check


def real(low: float, high: float) -> Check:
    """Return the check of a number between two bounds."""
    return lambda name, value, given: real_number(name, value, low=low, high=high)


def whole(low: int, high: int | None = None, *, up_to: str = "") -> Check:
    """Return the check of a whole number between two bounds; ``up_to`` names an argument of so many rows at most."""

    def check(name: str, value: Any, given: Mapping[str, Any]) -> int:
        most = len(given[up_to]) if up_to else high
        return whole_number(name, value, low=low) if most is None else whole_number(name, value, low=low, high=most)

    return check


def flags(name: str, value: Any, given: Mapping[str, Any]) -> bool:
    """Check a flag."""
    return flag(name, value)


def one_of(*allowed: object) -> Check:
    """Return the check of a value that is one of a few."""

    def check(name: str, value: Any, given: Mapping[str, Any]) -> object:
        if not any(type(value) is type(known) and value == known for known in allowed):
            raise ArgumentError(f"{name} is {shown(value)}; it is one of {', '.join(map(repr, allowed))}")
        return value

    return check


def sequence(part: Check, *, like: str = "", empty: bool = False) -> Check:
    """Return the check of a list or tuple and of each of its parts.

    ``like`` names an argument that is as long; ``empty`` says that it may hold nothing.
    """

    def check(name: str, value: Any, given: Mapping[str, Any]) -> object:
        if not isinstance(value, list | tuple):
            raise ArgumentError(f"{name} is {shown(value)}; it is a list or tuple")
        if not (value or empty):
            raise ArgumentError(f"{name} is an empty {type(value).__name__}; it holds at least one value")
        if like and len(value) != len(given[like]):
            raise ArgumentError(f"{name} holds {len(value)} values, and {like} {len(given[like])}: give as many")
        return [part(f"{name}[{place}]", item, given) for place, item in enumerate(value)]

    return check
