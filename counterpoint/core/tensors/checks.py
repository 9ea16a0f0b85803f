"""Tensors that a caller gives: what the plan and the pure functions can compute with, and what may be written to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from counterpoint.core.arguments import shown
from counterpoint.core.errors import DataError

__all__ = ["DTYPES", "FLOATING", "INTEGER", "check_tensor", "is_writable"]

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = frozenset({*FLOATING, *INTEGER, torch.bool, torch.complex64, torch.complex128})
"""Dtypes that torch computes with on every device; others, such as float8, only hold values."""


def check_tensor(name: str, value: object) -> Tensor:
    """Return a value that is a tensor to compute with; raises ``DataError`` for anything else.

    That is a dense tensor of a dtype in ``DTYPES``: not a sparse, quantized or nested one.

    >>> check_tensor("targets", torch.tensor([1, 0]))
    tensor([1, 0])
    """
    if not isinstance(value, Tensor):
        raise DataError(f"{name} must be a tensor, not {_described(value)}")
    if value.is_nested:
        raise DataError(f"{name} must not be a nested tensor: give {name}.to_padded_tensor(padding)")
    if value.is_quantized:
        raise DataError(f"{name} must not be quantized: give {name}.dequantize()")
    if value.layout is not torch.strided:
        raise DataError(f"{name} must be dense, not of layout {value.layout}: give {name}.to_dense()")
    if value.dtype not in DTYPES:
        raise DataError(f"{name} must be of a dtype to compute with, not {value.dtype}: convert them before")
    return value


def _described(value: object) -> str:
    """Say what a value is that is no tensor, and how to make one of it."""
    if value is None:
        return "None"
    if isinstance(value, np.ndarray | np.generic):
        return f"{shown(value)}: give torch.as_tensor(...)"
    if isinstance(value, list | tuple) and value and all(isinstance(part, Tensor) for part in value):
        return f"a {type(value).__name__} of {len(value)} tensors: give one of them, or stack them"
    if isinstance(value, list | tuple | int | float | bool):
        return f"of type {type(value).__name__}: give torch.tensor(...)"
    if isinstance(value, dict):
        return f"a dict with the keys {shown(', '.join(map(str, value)))}: give the tensor that it holds"
    return shown(value)


def is_writable(tensor: Tensor) -> bool:
    """Whether a donated tensor can be written to: it is no inference tensor, and no two elements share memory.

    >>> is_writable(torch.zeros(2, 3)), is_writable(torch.zeros(1, 3).expand(2, 3))
    (True, False)
    """
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return False
    reach = 0  # of the elements along the axes so far
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return False
            reach += stride * (size - 1)
    return True
