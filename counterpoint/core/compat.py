"""Parts of torch that its documentation does not promise, in one place.

``tests/core/test_compat.py`` fails if one of them is gone or does something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.dropout import _DropoutNd as Dropout
from torch.nn.modules.loss import _Loss as Loss

__all__ = [
    "TRIED",
    "WRAPPERS",
    "BatchNorm",
    "Dropout",
    "Loss",
    "assert_on_device",
    "child_places",
    "tensor_tables",
    "with_own_code",
]

TRIED = "2.13.0"
"""The release of torch that this file was tried on."""

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""The names under which DDP, torch.compile, FSDP and activation checkpointing hold the module that they wrap."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def assert_on_device(condition: Tensor, message: str) -> None:
    """Check a boolean tensor on its device, without waiting for it; a later operation raises if it is false.

    A public check reads the tensor on the host, which waits for the device.
    """
    torch._assert_async(condition, message)


def with_own_code(function: _Function) -> _Function:
    """Return a function that does the same and has a code object of its own.

    ``torch.compile`` counts what it compiles by code object, and stops at eight. ``isolate_recompiles=True`` of later
    releases does not replace this: the count over all functions of a code object is limited too.
    """
    own = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__ = function.__kwdefaults__
    return own  # type: ignore[return-value]


def tensor_tables(module: nn.Module, *, parameters: bool = True) -> list[dict[str, Tensor | None]]:
    """Return the dictionaries in which a module itself holds its parameters, if asked for, and its buffers.

    ``named_parameters`` and ``named_buffers`` leave out names whose tensor is ``None``, and cannot put one back.
    """
    buffers: dict[str, Tensor | None] = module._buffers
    held: dict[str, Any] = module._parameters
    return [held, buffers] if parameters else [buffers]


def child_places(module: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
    """Yield every name under which a module holds another one or ``None``.

    ``named_children`` yields a module that has several names once, and leaves out ``None``.
    """
    yield from module._modules.items()
