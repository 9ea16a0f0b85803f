"""The base of methods that evaluate with averaged weights: the average, its updates, and its use in an evaluation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from counterpoint.core import Algorithm, Event, Outcome, Scope, after, around
from counterpoint.core.declare.kinds import EVALUATION_WEIGHTS
from counterpoint.core.tensors.names import named_tensors
from counterpoint.core.tensors.saved import SavedTensors, write
from counterpoint.core.tensors.sharding import local

__all__ = ["Average", "WeightAverage", "moving_average"]

_BLOCK = 1 << 18
"""How many elements are updated at a time on the CPU: as many as fit into its caches."""

_together: Callable[[float], Callable[..., None]] = get_ema_multi_avg_fn


def moving_average(average: Tensor, value: Tensor, decay: float, *, out: Tensor | None = None) -> Tensor:
    """Return ``decay * average + (1 - decay) * value`` in the dtype of ``average``, written to ``out`` if given.

    Both tensors are floating or complex and of one shape; ``decay`` lies between 0 and 1. Where both are equal,
    infinite values included, the average keeps its bits. A decay of 0 copies the value.

    >>> moving_average(torch.tensor(0.0), torch.tensor(1.0), 0.75)
    tensor(0.2500)
    >>> moving_average(torch.tensor([-torch.inf, 2.0]), torch.tensor([-torch.inf, torch.inf]), 0.5)
    tensor([-inf, inf])
    """
    moved = average.detach().clone().resolve_conj()
    with torch.no_grad():
        _move_one(_parts(moved), _parts(value.detach().to(moved.dtype)), decay)
        return moved if out is None else out.copy_(moved)


@dataclass
class Average:
    """The averaged parameters and buffers by name, in float32 at least, and the number of updates."""

    weights: dict[str, Tensor]
    updates: Tensor
    careful: set[str] | None = field(default=None, init=False, repr=False, compare=False)
    """The tensors on an accelerator that have infinite or huge values, found once: each check waits for the device."""


class WeightAverage(Algorithm[None], name="weight_average"):
    """Keep an average of the weights, and evaluate and export the model with it.

    A subclass defines in ``decay_of`` how much of the average an update keeps; the first update copies the weights.
    Floating and complex buffers, such as batch norm's statistics, are averaged in the same way; those of integers and
    booleans are copied. A tensor that is new or has another shape than at the last update is copied.
    """

    @abstractmethod
    def decay_of(self, update: int, batches: int) -> float:
        """Return the share of the average that an update keeps, between 0 and 1.

        Updates count from 0; each comes after a step over some device ``batches`` on which the method acts.
        """

    def init(self, model: nn.Module) -> Average:
        """Start with a copy of the weights."""
        return Average({name: _widened(value) for name, value in named_tensors(model)}, torch.tensor(0))

    @after(Event.STEP, reads="parameters")
    def update(self, state: Average, scope: Scope) -> None:
        """Move the average towards the weights."""
        decay = self.decay_of(int(state.updates), scope.batches)
        present = dict(named_tensors(scope.model))
        averaged: dict[str, tuple[Tensor, Tensor]] = {}
        for name in state.weights.keys() - present.keys():
            del state.weights[name]
        with torch.no_grad():
            for name, value in present.items():
                average = state.weights.get(name)
                if average is None or not _is_of(average, value):
                    state.weights[name] = _widened(value)
                    continue
                if average.dtype != _wide(value.dtype) or average.device != value.device:
                    state.weights[name] = average = average.to(value.device, _wide(value.dtype))
                if decay == 0 or not _is_averaged(value):
                    average.copy_(value)
                else:
                    averaged[name] = (_parts(local(average)), _parts(local(value.detach()).to(average.dtype)))
            _move(state, averaged, decay)
        state.updates += 1

    @around(Event.EVALUATION, writes="parameters", restores="parameters", claims=EVALUATION_WEIGHTS)
    def swap(self, state: Average, scope: Scope) -> Generator[None, Outcome, None]:
        """Put the average into the model for an evaluation, then every tensor of the model back, bit for bit."""
        trained = SavedTensors(scope.model, parameters=True)
        try:
            if int(state.updates):
                _put(scope.model, state.weights)
            yield
        finally:
            trained.restore()


def _put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write averages into a model; a tensor that is new or has another shape since the last update stays."""
    with torch.no_grad():
        for name, value in named_tensors(model):
            if name in weights and _is_of(weights[name], value):
                write(value, weights[name])


def _is_averaged(value: Tensor) -> bool:
    """Whether a tensor can be averaged; others are copied from the model."""
    return value.layout is torch.strided and (value.is_floating_point() or value.is_complex())


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for averages of a dtype: float32 or complex64 at least."""
    if dtype.is_complex:
        return torch.promote_types(dtype, torch.complex64)
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def _widened(value: Tensor) -> Tensor:
    return value.detach().clone().to(_wide(value.dtype)).resolve_conj().resolve_neg()


def _is_of(average: Tensor, value: Tensor) -> bool:
    """Whether an average can be one of this value: of its shape, and like it floating, complex, or of its dtype."""
    alike = (average.is_floating_point() and value.is_floating_point()) or (average.is_complex() and value.is_complex())
    return (average.shape, average.layout) == (value.shape, value.layout) and (alike or average.dtype == value.dtype)


def _parts(tensor: Tensor) -> Tensor:
    """Return a complex tensor as its real and imaginary parts, any other as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _move(state: Average, averaged: Mapping[str, tuple[Tensor, Tensor]], decay: float) -> None:
    """Move each average towards a value of its dtype, in place."""
    away = {name: pair for name, pair in averaged.items() if pair[0].device.type != "cpu"}
    if away and state.careful is None:
        state.careful = {name for name, pair in away.items() if not _is_ordinary(*pair)}
    together = [pair for name, pair in away.items() if name not in (state.careful or ())]
    if together:  # all at once: a few kernels for any number of tensors
        _together(decay)([average for average, _ in together], [value for _, value in together], 0)
    for name, pair in averaged.items():
        if name not in away or name in (state.careful or ()):
            _move_one(*pair, decay)


def _move_one(average: Tensor, value: Tensor, decay: float) -> None:
    if decay == 0:
        average.copy_(value)
        return
    if average.device.type == "cpu":
        if torch.equal(average, value):
            return  # lerp would lose the sign of a negative zero
        lines = _lines(average, value)
        if lines is not None:
            for one, other in zip(*(torch.split(line, _BLOCK) for line in lines), strict=True):
                _move_block(one, other, decay)
            return
    _move_any(average, value, decay)


def _move_block(average: Tensor, value: Tensor, decay: float) -> None:
    """Move an average by lerp, and where the result is not finite, by the definition, for infinite values."""
    moved = torch.lerp(average, value, 1 - decay)
    if math.isfinite(moved.sum().item()):
        average.copy_(moved)
    else:
        _move_any(average, value, decay)


def _move_any(average: Tensor, value: Tensor, decay: float) -> None:
    same = (average == value) | (average.isnan() & value.isnan())
    average.copy_(torch.where(same, average, decay * average + (1 - decay) * value))


def _is_ordinary(average: Tensor, value: Tensor) -> bool:
    """Whether lerp can move the average, which takes the difference."""
    return bool((value - average).isfinite().all())


def _lines(average: Tensor, value: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the elements of both in the order of memory, if that is one for both and has no gaps."""
    if average.stride() != value.stride():
        return None
    order = sorted(range(average.dim()), key=average.stride, reverse=True)
    first, second = average.permute(order), value.permute(order)
    return (first.view(-1), second.view(-1)) if first.is_contiguous() else None
