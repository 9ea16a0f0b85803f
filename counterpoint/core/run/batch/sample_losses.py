"""The losses of single samples, for edits that ask for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

from torch import Tensor

from counterpoint.core.declare.batch import Batch
from counterpoint.core.errors import DataError
from counterpoint.core.run.batch.calls import BoundEdit
from counterpoint.core.run.batch.generators import GeneratorWatch

__all__ = ["Ask", "SampleLosses", "asking"]

SampleLosses = Callable[[Batch], Tensor]


class Ask:
    """Gives the loss of each sample of the batch as it was given, in the kinds that the model takes.

    ``view`` makes that batch, and ``losses`` its losses. The model may draw from global generators, and no method may:
    ``generators`` are watched while a method is checked.
    """

    def __init__(self, view: Callable[[], Batch], losses: SampleLosses, step: int) -> None:
        self._view, self._losses, self._step = view, losses, step
        self.generators: GeneratorWatch | None = None

    def __call__(self, name: str) -> Tensor:
        """Return the losses, which the edit of this name asks for."""
        if self.generators is None:
            return self._made()
        return self.generators.except_for(f"{name}, at step {self._step}", self._made)

    def _made(self) -> Tensor:
        view = self._view()
        losses = self._losses(view)
        if losses.shape != (len(view.inputs),):
            raise DataError(
                f"the loss gives losses of shape {tuple(losses.shape)} for {len(view.inputs)} samples; LossSpec.each "
                "returns one number for each sample, (N)"
            )
        return losses


def asking(edit: BoundEdit, ask: Ask | None) -> BoundEdit:
    """Return an edit that is called with the function that it asks for; its losses are computed once."""
    assert ask is not None
    return replace(edit, function=partial(_with_losses, edit.function, cache(partial(ask, edit.name))))


def _with_losses(edit: Callable[..., Batch], losses: Callable[[], Tensor], batch: Batch, draws: Any) -> Batch:
    return edit(batch, draws, losses)
