"""Checks of the arguments of the pure functions, where those of ``core.signatures`` are not enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from counterpoint.algorithms.trivial_augment import OPERATIONS
from counterpoint.core.arguments import shown
from counterpoint.core.declare.signatures import check_device, each, image, one_of, real, sequence, tensor, whole
from counterpoint.core.errors import ArgumentError, DataError
from counterpoint.core.tensors.checks import FLOATING, check_tensor

__all__ = [
    "AVERAGED",
    "COLOURED",
    "FLOATING_TENSOR",
    "NUMBERS",
    "by_operation",
    "floating_dtype",
    "kernel",
    "like_average",
    "like_weights",
    "matrices",
    "stride",
]

COLOURED = image(torch.uint8, *FLOATING)
NUMBERS = sequence(real(-1e30, 1e30))
FLOATING_TENSOR = tensor(dtypes=FLOATING)
AVERAGED = (*FLOATING, torch.complex64, torch.complex128)


def like_average(name: str, value: Any, given: Mapping[str, Any]) -> object:
    """Check what a result is written to, if anything: a tensor like the average."""
    return value if value is None else tensor(dtypes=(given["average"].dtype,), like="average")(name, value, given)


def like_weights(name: str, value: Any, given: Mapping[str, Any]) -> object:
    """Check a gradient for each weight, of its shape."""
    found = sequence(FLOATING_TENSOR, like="weights", empty=True)(name, value, given)
    for weight, gradient in zip(given["weights"], found if isinstance(found, list) else (), strict=True):
        if weight.shape != gradient.shape or weight.device != gradient.device:
            raise DataError(f"{name} holds tensors of the shapes of the weights, on their devices")
    return found


def stride(name: str, value: Any, given: Mapping[str, Any]) -> object:
    """Check a stride: two whole numbers."""
    found = sequence(whole(1, 1 << 20))(name, value, given)
    if not isinstance(found, list) or len(found) != 2:
        raise ArgumentError(f"{name} is {shown(value)}; it is two whole numbers, (vertical, horizontal)")
    return tuple(found)


def kernel(name: str, value: Any, given: Mapping[str, Any]) -> object:
    """Check the kernel of a filter, (KH, KW)."""
    found = tensor(2, dtypes=FLOATING)(name, value, given)
    if isinstance(found, Tensor) and (found.numel() == 0 or found.device != given["inputs"].device):
        raise DataError(f"{name} is not empty and lies on the device of the inputs")
    return found


def by_operation(name: str, value: Any, given: Mapping[str, Any]) -> object:
    """Check a mapping of indices, or of magnitudes, by the names of operations."""
    if not isinstance(value, dict) or not all(key in OPERATIONS for key in map(_key, value)):
        raise ArgumentError(f"{name} is {shown(value)}; it is a dict by operations: {', '.join(OPERATIONS)}")
    for key, numbers in value.items():
        if name == "samples":
            tensor(1, dtypes=(torch.int64,))(f"{name}[{key!r}]", numbers, given)
            check_device(f"{name}[{key!r}]", numbers, "inputs", given)
            size = len(given["inputs"])
            if numbers.device.type == "cpu" and not ((numbers >= -size) & (numbers < size)).all():
                raise DataError(f"{name}[{key!r}] holds an index beyond the {size} inputs")
        elif key not in given["samples"]:
            raise ArgumentError(f"{name} has {key!r}, and samples does not: both are by the same operations")
        else:
            each("chosen", high=8 if key == "posterize" else 1e6, low=0 if key == "posterize" else -1e6)(
                f"{name}[{key!r}]", numbers, {"chosen": given["samples"][key]}
            )
    if name == "magnitudes" and (missing := given["samples"].keys() - value.keys()):
        raise ArgumentError(f"{name} has nothing for {', '.join(sorted(missing))}: both are by the same operations")
    return value


def _key(key: object) -> str:
    return key if isinstance(key, str) else ""


def floating_dtype(name: str, value: Any, given: Mapping[str, Any]) -> object:
    """Check a dtype, or ``None``."""
    return value if value is None else one_of(*FLOATING)(name, value, given)


def matrices(name: str, value: Any, given: Mapping[str, Any]) -> Tensor:
    """Check the six numbers of an affine map for each image, (N, 6)."""
    found = check_tensor(name, value)
    if found.shape != (len(given["images"]), 6) or not found.is_floating_point():
        raise DataError(f"{name} holds six floating numbers for each image, not {found.dtype} of {tuple(found.shape)}")
    check_device(name, found, "images", given)
    return found
