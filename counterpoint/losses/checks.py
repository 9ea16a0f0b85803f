"""What every loss checks of its arguments before it computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from counterpoint.core.arguments import real_number, written
from counterpoint.core.errors import ArgumentError, ConfigError, DataError, nearest
from counterpoint.core.tensors.checks import check_tensor

__all__ = [
    "Reduction",
    "check_weight",
    "checked_choice",
    "checked_number",
    "checked_reduction",
    "common_dtype",
    "element_count",
    "element_mean",
    "elementwise",
    "require_float_labels",
    "require_float_outputs",
    "require_no_growth",
    "sample_means",
    "weighed_classes",
]

Reduction: TypeAlias = Literal["none", "sum", "mean"]
"""The reduction of the losses of single positions: none, their sum, or their mean."""
Choice = TypeVar("Choice", bound=str)
REDUCTIONS: tuple[Reduction, ...] = ("none", "sum", "mean")


def checked_choice(name: str, value: object, known: tuple[Choice, ...]) -> Choice:
    """Return a setting if it is one of the known words; raise ``ConfigError`` with the nearest ones otherwise.

    >>> checked_choice("reduction", "sum", ("sum", "mean"))
    'sum'
    """
    for word in known if isinstance(value, str) else ():
        if value == word:
            return word
    raise ConfigError(f"{name} is {written(value)}{nearest(value if isinstance(value, str) else '', known)}")


def checked_reduction(reduction: str) -> Reduction:
    """Return the reduction if there is one of this name; raise ``ConfigError`` otherwise.

    >>> checked_reduction("sum")
    'sum'
    """
    return checked_choice("reduction", reduction, REDUCTIONS)


def checked_number(name: str, value: object, meaning: str, *, high: float = math.inf) -> float:
    """Return a setting that is a finite number from 0 to ``high``; raise ``ConfigError`` with its meaning otherwise.

    >>> checked_number("gamma", 2, "it is 0 or above")
    2.0
    """
    try:
        number = real_number(name, value, low=0, high=high)
    except ArgumentError:
        number = math.inf
    if math.isinf(number):
        raise ConfigError(f"{name} is {written(value)}; {meaning}")
    return number


def check_weight(weight: object, setting: str = "weight") -> None:
    """Raise ``DataError`` unless a weight is a tensor, or none."""
    if weight is not None:
        check_tensor(setting, weight)


def common_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Return the narrowest dtype, float32 at least, that holds every given tensor's values.

    >>> common_dtype(torch.zeros(1, dtype=torch.bfloat16), None)
    torch.float32
    """
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def element_count(targets: Tensor) -> Tensor:
    """Return the number of elements as a scalar on their device, which a plain mean divides by."""
    return torch.full((), targets.numel(), dtype=common_dtype(targets), device=targets.device)


def element_mean(losses: Tensor) -> Tensor:
    """Average the losses of the elements of each sample, (N, ...), to (N).

    >>> element_mean(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    tensor([2., 5.])
    """
    return losses.unsqueeze(-1).flatten(1).mean(1)


def sample_means(run: Callable[..., Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each sample, (N): the mean of what ``run`` gives for its elements."""
    return element_mean(run(outputs, targets, reduction="none"))


def weighed_classes(*weights: Tensor | None) -> int | None:
    """Return the number of classes that weights are for; ``None`` without weights or with one weight for all classes.

    >>> weighed_classes(None, torch.ones(3)), weighed_classes(torch.ones(4, 1)), weighed_classes(torch.tensor(2.0))
    (3, None, None)
    """
    sizes = (weight.shape[-1] for weight in weights if weight is not None and weight.ndim > 0)
    return next((size for size in sizes if size != 1), None)


def require_float_outputs(outputs: Tensor, loss: str) -> None:
    """Raise ``DataError`` unless the model's outputs are real floating-point numbers."""
    if not check_tensor("outputs", outputs).is_floating_point():
        raise DataError(f"{loss}: outputs are {outputs.dtype}; the model must return floats")


def require_float_labels(targets: Tensor, loss: str, meaning: str) -> None:
    """Raise ``DataError`` unless targets are float32 or float64; half precision loses their sums."""
    if check_tensor("targets", targets).dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"{loss}: targets are {targets.dtype}; it takes {meaning} as torch.float32 or torch.float64: "
            "give targets.float()"
        )


def _require_same_shape(outputs: Tensor, targets: Tensor, loss: str) -> None:
    """Raise ``DataError`` where shapes differ: broadcasting would pair outputs with other samples' targets."""
    if outputs.shape != targets.shape:
        raise DataError(
            f"{loss}: outputs have shape {tuple(outputs.shape)} and targets {tuple(targets.shape)}; "
            "both must be the same: reshape one of them"
        )


def elementwise(outputs: Tensor, targets: Tensor, loss: str, meaning: str) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of one shape in their common dtype; ``meaning`` says what the targets are.

    Raises ``DataError`` for other shapes or dtypes.

    >>> elementwise(torch.zeros(1, dtype=torch.bfloat16), torch.ones(1), "squared error", "real numbers")
    (tensor([0.]), tensor([1.]))
    """
    require_float_outputs(outputs, loss)
    require_float_labels(targets, loss, meaning)
    _require_same_shape(outputs, targets, loss)
    dtype = common_dtype(outputs, targets)
    return outputs.to(dtype), targets.to(dtype)


def require_no_growth(values: Tensor | None, targets: Tensor, loss: str, setting: str) -> None:
    """Raise ``DataError`` unless a weight broadcasts to the targets' shape without making it larger."""
    check_weight(values, setting)
    if values is None:
        return
    own, wanted = tuple(values.shape), tuple(targets.shape)
    fits = len(own) <= len(wanted) and all(
        size in (1, other) for size, other in zip(reversed(own), reversed(wanted), strict=False)
    )
    if not fits:
        raise DataError(f"{loss}: {setting} has shape {own}, which does not fit targets of shape {wanted}")
