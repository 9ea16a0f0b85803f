"""Objects of any kind for fuzzing public functions: tensors of every dtype, shape and layout, and what is no tensor."""

from __future__ import annotations

import decimal
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
OTHERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.bool, torch.complex64]
LAYOUTS = (
    "plain", "expanded", "strided", "transposed", "sparse", "csr", "meta", "nested", "quantized", "inference", "grad",
    "non_leaf", "parameter", "conjugate", "overlapping",
)  # fmt: skip
shapes = st.lists(st.integers(0, 4), max_size=5).map(tuple)
batches = st.sampled_from([(4, 2, 5, 5), (4, 1, 4, 6), (4, 3), (4,), (4, 5, 5), (4, 3, 5, 5), (1, 3, 5, 5), (4, 6)])


@st.composite
def tensors(draw: st.DrawFn, shape: st.SearchStrategy[tuple[int, ...]] = shapes | batches) -> Any:
    """Draw a tensor of random shape, dtype, values and layout; simple ones first."""
    dtype = draw(st.sampled_from([torch.float32, torch.int64]) | st.sampled_from([*FLOATS, *OTHERS]))
    extent, layout = draw(shape), draw(st.sampled_from(["plain"]) | st.sampled_from(LAYOUTS))
    low, high = draw(st.sampled_from([(0, 1), (0, 3), (-3, 300), (1, 1)]))
    numbers = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    values = torch.randint(low, high + 1, extent, generator=numbers).to(dtype)
    if dtype.is_floating_point and draw(st.booleans()):
        special = draw(st.sampled_from([0.5, float("nan"), float("inf"), -1.0]))
        values = torch.where(values.double() > 0, special, values.double()).to(dtype)
    return laid_out(values, layout)


def laid_out(values: Tensor, layout: str) -> Any:
    """Return values in a layout, or as they are where torch has no such layout for them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _LAID_OUT[layout](values)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return values


def _inference(values: Tensor) -> Tensor:
    with torch.inference_mode():
        return values.clone()


_LAID_OUT: dict[str, Any] = {
    "plain": lambda values: values,
    "expanded": lambda values: values[:1].expand(len(values), *values.shape[1:]),
    "strided": lambda values: torch.stack([values, values], -1)[..., 0],
    "transposed": lambda values: values.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sparse": lambda values: values.to_sparse(),
    "csr": lambda values: values.to_sparse_csr(),
    "meta": lambda values: values.to("meta"),
    "nested": lambda values: torch.nested.nested_tensor([*values.float()]),
    "quantized": lambda values: torch.quantize_per_tensor(values.float(), 0.1, 0, torch.quint8),
    "inference": _inference,
    "grad": lambda values: values.clone().requires_grad_(),
    "non_leaf": lambda values: values.clone().requires_grad_() * 1,
    "parameter": lambda values: torch.nn.Parameter(values),
    "conjugate": lambda values: values.to(torch.complex64).conj().imag,
    "overlapping": lambda values: values.flatten()[: values.shape[0] + 1].unfold(0, 2, 1),
}


class Strange:
    """An object that knows nothing."""


class Hostile:
    """An object that looks like a number."""

    def __index__(self) -> int:
        raise ValueError("no index")

    def __float__(self) -> float:
        raise ValueError("no float")


PLAIN: Sequence[Any] = (
    None, True, False, 0, 1, -1, 7, 2**70, 10**5000, 0.5, -0.5, 9.0, float("nan"), float("inf"), 1j, "", "mixup", "0",
    b"0", (), [], {}, set(), frozenset({1}), object, Strange(), Hostile(), len, range(3), decimal.Decimal(1),
    np.int64(1), np.float32(0.5), np.bool_(True), np.zeros((4, 3)), np.zeros((4, 2, 5, 5), np.float32), np.array(1),
    np.array(["a"]), [1, 2, 0, 1], [[0.5]], {"x": 1}, torch.float32, torch.device("cpu"), ...,
)  # fmt: skip
plain = st.sampled_from(PLAIN)
containers = (
    st.lists(tensors(), min_size=1, max_size=3)
    | st.lists(tensors(), min_size=1, max_size=3).map(tuple)
    | st.dictionaries(st.sampled_from("xy"), tensors(), min_size=1)
)
anything = tensors() | plain | containers
