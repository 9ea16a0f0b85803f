"""The scope of a hook: the fields of training that it declared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from counterpoint.core.declare.batch import Batch
from counterpoint.core.declare.effects import HookEffect
from counterpoint.core.declare.kinds import Field
from counterpoint.core.errors import ContractError

__all__ = ["Opened", "Outcome", "Scope", "Training"]


@dataclass(frozen=True)
class Outcome:
    """How a span ended: ``error`` is the exception that ended it, ``None`` if it ended well."""

    error: BaseException | None = None


@dataclass(frozen=True, eq=False)
class Opened:
    """An open device batch: its number, the edited batch, its draws, and the methods whose hooks act on it."""

    number: int
    batch: Batch
    draws: dict[str, Any]
    active: frozenset[str]


@dataclass(eq=False)
class Training:
    """What a loop is at: the optimizer once there is one, the number of batches done, and the loss of the step.

    ``reshard(model)`` is called before a hook gets the model: FSDP may have gathered its parameters.
    """

    model: nn.Module
    optimizer: Optimizer | None
    reshard: Callable[[nn.Module], None]
    batches: int = 0
    loss: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Scope:
    """What a hook may read or edit, during its call or the span that it is around.

    ``step`` counts device batches, ``draws`` are those of its algorithm for this batch; where a step takes several
    batches, they are those of the first on which the algorithm acts. A field that the hook did not declare raises
    ``ContractError`` naming the declaration to change.
    """

    owner: str
    effect: HookEffect
    training: Training
    concerned: Sequence[Opened] = ()
    """The batches at work that its span is over."""

    @property
    def step(self) -> int:
        """The number of the device batch."""
        opened = self._acts_on
        return self.training.batches if opened is None else opened.number

    @property
    def draws(self) -> Any:
        """The draws of its algorithm for the batch, ``None`` outside of a batch."""
        opened = self._acts_on
        return None if opened is None else opened.draws.get(self.owner)

    @property
    def batches(self) -> int:
        """How many of the device batches that the span is over its algorithm acts on: several in a step of several."""
        return sum(self.owner in opened.active for opened in self.concerned)

    @property
    def _acts_on(self) -> Opened | None:
        return next((opened for opened in self.concerned if self.owner in opened.active), None)

    @property
    def model(self) -> nn.Module:
        """The model, for hooks that declare ``parameters``, ``gradients`` or ``modules``.

        The parameters of a model that FSDP shards are its shards, also after a forward pass that gathered them.
        """
        self._declared(Field.PARAMETERS, Field.GRADIENTS, Field.MODULES)
        self.training.reshard(self.training.model)
        return self.training.model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, for hooks that declare ``optimizer``."""
        self._declared(Field.OPTIMIZER)
        if self.training.optimizer is None:
            raise ContractError(f"{self.owner} needs the optimizer at {self.effect.event.value}, before there is one")
        return self.training.optimizer

    @property
    def batch(self) -> Batch:
        """The edited device batch, for hooks that declare ``inputs`` or ``targets``."""
        self._declared(Field.INPUTS, Field.TARGETS)
        if len(self.concerned) != 1:
            raise ContractError(f"{self.owner} needs the batch at {self.effect.event.value}, outside of any batch")
        return self.concerned[0].batch

    @property
    def loss(self) -> Tensor:
        """The loss of the step, for hooks that declare ``loss`` and run after the closure."""
        self._declared(Field.LOSS)
        if self.training.loss is None:
            raise ContractError(f"{self.owner} needs the loss at {self.effect.event.value}, before there is one")
        return self.training.loss

    def _declared(self, *parts: Field) -> None:
        """Raise ``ContractError`` unless one of the fields was declared."""
        if not self.effect.reads.isdisjoint(parts) or not self.effect.writes.isdisjoint(parts):
            return
        words = " or ".join(repr(part.value) for part in parts)
        raise ContractError(
            f"{self.owner}.{self.effect.method} uses {words} and does not declare it: "
            f"write @{self.effect.phase.value}(Event.{self.effect.event.name}, reads={parts[0].value!r})"
        )
