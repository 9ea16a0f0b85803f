"""What methods that evaluate on averaged weights share: the average, its updates, and its place in an evaluation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from counterpoint.core import Algorithm, Event, Outcome, Scope, after, around
from counterpoint.core.kinds import EVALUATION_WEIGHTS

__all__ = ["Average", "WeightAverage", "moving_average"]


def moving_average(average: Tensor, value: Tensor, decay: float, *, out: Tensor | None = None) -> Tensor:
    """Return ``decay * average + (1 - decay) * value`` in the dtype of ``average``, written to ``out`` if given.

    Both tensors are floating and of one shape; ``decay`` lies between 0 and 1.

    >>> moving_average(torch.tensor(0.0), torch.tensor(1.0), 0.75)
    tensor(0.2500)
    """
    return torch.lerp(average, value.to(average.dtype), 1 - decay, out=out)


@dataclass
class Average:
    """The averaged parameters and buffers by name, in float32 at least, and the number of updates."""

    weights: dict[str, Tensor]
    updates: Tensor


class WeightAverage(Algorithm[None], name="weight_average"):
    """Keep an average of the weights beside the model, and evaluate and export the model with it.

    A subclass says in ``decay_of`` how much of the average an update keeps; the first update keeps nothing of it and
    copies the weights. Floating buffers, such as batch norm's statistics, are averaged alike; integer ones are copied.
    """

    @abstractmethod
    def decay_of(self, update: int) -> float:
        """Return the share of the average that an update keeps, between 0 and 1; updates count from 0."""

    def init(self, model: nn.Module) -> Average:
        """Start with a copy of the weights."""
        weights = {name: _widened(value) for name, value in _values(model)}
        return Average(weights, torch.tensor(0))

    @after(Event.STEP, reads="parameters")
    def update(self, state: Average, scope: Scope) -> None:
        """Move the average towards the weights."""
        decay = self.decay_of(int(state.updates))
        averages: list[Tensor] = []
        values: list[Tensor] = []
        with torch.no_grad():
            for name, value in _values(scope.model):
                average = state.weights[name]
                if value.is_floating_point():
                    averages.append(average)
                    values.append(value.to(average.dtype))
                else:
                    average.copy_(value)
            if averages:  # all at once: on a GPU in a few kernels, however many tensors a model has
                torch._foreach_lerp_(averages, values, 1 - decay)
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


def _values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _widened(value: Tensor) -> Tensor:
    copy = value.detach().clone()
    return copy.to(torch.promote_types(copy.dtype, torch.float32)) if copy.is_floating_point() else copy


def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in _values(model):
            value.copy_(weights[name])
