"""The forward and backward passes of a step, over one device batch or several, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.core.run.training.engine import Engine
from counterpoint.core.run.training.shares import shares

__all__ = ["Part", "Passes"]


@dataclass(frozen=True)
class Part:
    """What one forward pass is over: ``forward()`` gives the model's outputs for these edited targets.

    ``batch`` is the number of the open device batch that it is of, from 0 in the order of opening.
    """

    forward: Callable[[], Tensor]
    targets: Tensor
    batch: int = 0


class Passes:
    """Runs forward and backward over the parts of a step; a call is what ``Engine.step`` takes as its closure.

    The global batch is all parts in all processes together. The loss of each part is weighted by its share of the
    denominator of the global mean. The gradient, averaged over processes, is then that of the global batch, except for
    what a model computes over a batch, such as batch-norm statistics. The loss that a call returns is scaled in the
    same way: its mean over the processes is the loss of the global batch. ``outputs`` are those of the first call, on
    the parameters before the step. ``backward(loss)`` makes the backward pass. With several ``processes``, ``add``
    returns the sum of a number over all of them. ``unsynced()`` is a context without synchronisation of gradients: they
    are synchronised once, in the last part.

    >>> import counterpoint as cp
    >>> plan = cp.compose([], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=2, inputs="features")
    >>> model = torch.nn.Linear(3, 2)
    >>> engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    >>> with engine.batch(torch.rand(4, 3), torch.tensor([0, 1, 1, -100])) as batch:
    ...     parts = [(batch.inputs[:2], batch.targets[:2]), (batch.inputs[2:], batch.targets[2:])]
    ...     loss = engine.step(Passes(engine, [Part(lambda x=x: model(x), y) for x, y in parts]))
    """

    def __init__(
        self,
        engine: Engine,
        parts: Sequence[Part],
        *,
        backward: Callable[[Tensor], object] = torch.Tensor.backward,
        unsynced: Callable[[], AbstractContextManager[object]] = nullcontext,
        processes: int = 1,
        add: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._engine, self._parts = engine, parts
        self._backward, self._unsynced, self._processes = backward, unsynced, processes
        self._shares = shares(engine.plan, [part.targets for part in parts], processes=processes, add=add)
        self._outputs: list[Tensor] = []

    @property
    def outputs(self) -> Tensor:
        """The model's outputs for all parts."""
        return torch.cat(self._outputs)

    def as_mean(self, loss: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the loss of a call as a mean, and what it counts, so that those of all processes add up."""
        if self._shares.weight is None:
            size = sum(len(part.targets) for part in self._parts)
            return loss / (size * self._processes), float(size)
        return loss, self._shares.weight

    def __call__(self) -> Tensor:
        """Add the gradient of all parts to the parameters' and return their loss."""
        first = not self._outputs
        losses = []
        for number, part in enumerate(self._parts):
            waits = number + 1 < len(self._parts)
            with self._engine.on(part.batch), self._unsynced() if waits else nullcontext():
                outputs, loss = self._run(number, part)
            losses.append(loss)
            if first:
                self._outputs.append(outputs)
        return torch.stack(losses).sum()

    def _run(self, number: int, part: Part) -> tuple[Tensor, Tensor]:
        with self._engine.forward():
            outputs = part.forward()
        with self._engine.loss():
            loss = self._shares.scaled(number, outputs, self._engine.plan.loss(outputs, part.targets))
        with self._engine.backward():
            self._backward(loss)
        return outputs.detach(), loss.detach()
