"""EMA: evaluate on an exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoint.core import Algorithm, Event, Outcome, Scope, after, around
from counterpoint.core.kinds import EVALUATION_WEIGHTS

__all__ = ["EMA", "Average", "decay_at", "moving_average"]


def moving_average(average: Tensor, value: Tensor, decay: float, *, out: Tensor | None = None) -> Tensor:
    """Return ``decay * average + (1 - decay) * value`` in the dtype of ``average``, written to ``out`` if given.

    Both tensors are floating and of one shape; ``decay`` lies between 0 and 1.

    >>> moving_average(torch.tensor(0.0), torch.tensor(1.0), 0.75)
    tensor(0.2500)
    """
    return torch.lerp(average, value.to(average.dtype), 1 - decay, out=out)


def decay_at(update: int, decay: float, *, warmup: bool) -> float:
    """Return the decay of an update, counted from 0: the first copies the weights, later ones grow towards ``decay``.

    With ``warmup`` the decay of update ``t`` is ``min(decay, (1 + t) / (10 + t))``, so that early weights are soon
    forgotten.

    >>> [round(decay_at(t, 0.999, warmup=True), 3) for t in (0, 1, 10, 100, 10**6)]
    [0.0, 0.182, 0.55, 0.918, 0.999]
    """
    if update == 0:
        return 0.0
    return min(decay, (1 + update) / (10 + update)) if warmup else decay


@dataclass
class Average:
    """The averaged parameters and buffers by name, in float32 at least, and the number of updates."""

    weights: dict[str, Tensor]
    updates: Tensor


def _values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


class EMA(Algorithm[None], name="ema"):
    """Keep an exponential moving average of the weights, and evaluate and export the model with it.

    After every ``every``-th batch ``average = d * average + (1 - d) * weights`` with ``d = decay``, or where that is
    not given ``d = 0.5 ** (every / half_life)``. The first update copies the weights. Floating buffers, such as batch
    norm's statistics, are averaged alike; integer ones are copied. The model trains on its own weights.

    >>> EMA(half_life=100).per_update
    0.9930924954370359
    >>> EMA(decay=0.999).per_update
    0.999

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 1992,
    https://doi.org/10.1137/0330046
    """

    half_life: float = Field(default=100.0, gt=0, description="batches after which a weight counts half")
    decay: float | None = Field(default=None, ge=0, lt=1, description="decay of each update, instead of half_life")
    warmup: bool = Field(default=True, description="lets the decay of update t be at most (1 + t) / (10 + t)")

    @property
    def per_update(self) -> float:
        """The decay of an update, warm-up aside."""
        return 0.5 ** (self.every / self.half_life) if self.decay is None else self.decay

    def init(self, model: nn.Module) -> Average:
        """Start with a copy of the weights."""
        weights = {name: _widened(value) for name, value in _values(model)}
        return Average(weights, torch.tensor(0))

    @after(Event.STEP, reads="parameters")
    def update(self, state: Average, scope: Scope) -> None:
        """Move the average towards the weights."""
        decay = decay_at(int(state.updates), self.per_update, warmup=self.warmup)
        with torch.no_grad():
            for name, value in _values(scope.model):
                average = state.weights[name]
                if value.is_floating_point():
                    moving_average(average, value, decay, out=average)
                else:
                    average.copy_(value)
        state.updates += 1

    @around(Event.EVALUATION, writes="parameters", restores="parameters", claims=EVALUATION_WEIGHTS)
    def swap(self, state: Average, scope: Scope) -> Generator[None, Outcome, None]:
        """Put the average into the model for an evaluation, then the weights back, bit for bit."""
        if int(state.updates) == 0:
            yield
            return
        trained = {name: value.detach().clone() for name, value in _values(scope.model)}
        _put(scope.model, state.weights)
        yield
        _put(scope.model, trained)


def _widened(value: Tensor) -> Tensor:
    copy = value.detach().clone()
    return copy.to(torch.promote_types(copy.dtype, torch.float32)) if copy.is_floating_point() else copy


def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _values(model):
            value.copy_(weights[name])
