"""What a hook sees of training: the fields that it declared, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from counterpoint.core.batch import Batch
from counterpoint.core.effects import HookEffect
from counterpoint.core.errors import ContractError
from counterpoint.core.kinds import Field
from counterpoint.core.sharding import reshard

__all__ = ["Outcome", "Scope"]


@dataclass(frozen=True)
class Outcome:
    """How a span ended: ``error`` is the exception that ended it, ``None`` if it ended well."""

    error: BaseException | None = None


@dataclass(frozen=True)
class Scope:
    """What a hook may touch. ``step`` counts device batches, ``draws`` are those of its algorithm for this batch.

    A field that the hook did not declare raises ``ContractError`` naming the declaration to change.
    """

    owner: str
    effect: HookEffect
    step: int
    draws: Any
    fields: Mapping[Field, object]

    @property
    def model(self) -> nn.Module:
        """The model, for hooks that declare ``parameters``, ``gradients`` or ``modules``.

        The parameters of a model that FSDP shards are its shards, also after a forward pass that gathered them.
        """
        model = self._get(Field.PARAMETERS, Field.GRADIENTS, Field.MODULES)
        assert isinstance(model, nn.Module)
        reshard(model)
        return model

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, for hooks that declare ``optimizer``."""
        optimizer = self._get(Field.OPTIMIZER)
        if not isinstance(optimizer, Optimizer):
            raise ContractError(f"{self.owner} needs the optimizer at {self.effect.event.value}, before there is one")
        return optimizer

    @property
    def batch(self) -> Batch:
        """The edited device batch, for hooks that declare ``inputs`` or ``targets``."""
        batch = self._get(Field.INPUTS, Field.TARGETS)
        if not isinstance(batch, Batch):
            raise ContractError(f"{self.owner} needs the batch at {self.effect.event.value}, outside of any batch")
        return batch

    @property
    def loss(self) -> Tensor:
        """The loss of the step, for hooks that declare ``loss`` and run after the closure."""
        loss = self._get(Field.LOSS)
        if not isinstance(loss, Tensor):
            raise ContractError(f"{self.owner} needs the loss at {self.effect.event.value}, before there is one")
        return loss

    def _get(self, *parts: Field) -> object:
        declared = self.effect.reads | self.effect.writes
        for part in parts:
            if part in declared:
                return self.fields[part]
        words = " or ".join(repr(part.value) for part in parts)
        raise ContractError(
            f"{self.owner}.{self.effect.method} uses {words} and does not declare it: "
            f"write @{self.effect.phase.value}(Event.{self.effect.event.name}, reads={parts[0].value!r})"
        )
