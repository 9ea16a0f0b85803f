"""Optimizers and learning-rate schedules as parts of a config."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated

from pydantic import Field, model_validator
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from counterpoint.core.declare.durations import Duration
from counterpoint.core.errors import ConfigError
from counterpoint.trainer.component_config import ComponentConfig

__all__ = [
    "OPTIMIZERS",
    "SCHEDULERS",
    "SGD",
    "AdamW",
    "Constant",
    "Cosine",
    "OptimizerConfig",
    "SchedulerConfig",
    "trained_parameters",
]

_Share = Annotated[float, Field(strict=True, ge=0, lt=1)]


class OptimizerConfig(ComponentConfig):
    """The base of an optimizer: its settings, and ``build``."""

    @abstractmethod
    def build(self, model: nn.Module) -> optim.Optimizer:
        """Make the optimizer of all parameters of ``model`` that are trained; raises ``ConfigError`` if none is."""


class SGD(OptimizerConfig):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    >>> SGD(lr=0.1).build(nn.Linear(2, 1)).param_groups[0]["momentum"]
    0.9
    """

    lr: float = Field(default=0.1, gt=0, le=1e30, description="learning rate at its highest")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="share of the last update that the next one keeps")
    nesterov: bool = Field(default=False, description="take the gradient's step after the momentum's")
    weight_decay: float = Field(default=0.0, ge=0, le=1e30, description="L2 penalty, added to the gradient")

    @model_validator(mode="after")
    def _has_momentum(self) -> SGD:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, such as 0.9")
        return self

    def build(self, model: nn.Module) -> optim.Optimizer:
        """Make the optimizer."""
        return optim.SGD(trained_parameters(model), **self.model_dump())


class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    Loshchilov and Hutter, ICLR 2019, https://arxiv.org/abs/1711.05101

    >>> AdamW(betas=[0.9, 0.95]).build(nn.Linear(2, 1)).param_groups[0]["betas"]
    (0.9, 0.95)
    """

    lr: float = Field(default=1e-3, gt=0, le=1e30, description="learning rate at its highest")
    betas: Annotated[tuple[_Share, _Share], Field(strict=False)] = Field(
        default=(0.9, 0.999), description="share that the averages of the gradient and of its square keep in a step"
    )
    eps: float = Field(default=1e-8, gt=0, le=1e30, description="added to the divisor of the update")
    weight_decay: float = Field(
        default=0.01, ge=0, le=1e30, description="share of a weight, times lr, that a step takes off"
    )

    def build(self, model: nn.Module) -> optim.Optimizer:
        """Make the optimizer."""
        return optim.AdamW(trained_parameters(model), **self.model_dump())


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a model that are trained; raises ``ConfigError`` if none is."""
    if parameters := [parameter for parameter in model.parameters() if parameter.requires_grad]:
        return parameters
    raise ConfigError("model: it has no parameters to train; set requires_grad on some, or use another model")


class SchedulerConfig(ComponentConfig):
    """The base of a schedule: a factor on the optimizer's learning rate for each optimizer step.

    Over the first ``warmup`` the factor grows in equal steps to 1, which it has first at the last step of the warm-up.
    """

    warmup: Duration = Field(default=Duration(0, "ba"), description="length of the linear warm-up")

    def build(self, optimizer: optim.Optimizer, *, total: int, steps_per_epoch: int) -> LambdaLR:
        """Make the scheduler of a run of ``total`` steps; its ``step`` is called once after each optimizer step.

        Raises ``ConfigError`` if the warm-up is longer than the run.
        """
        warmup = self.warmup.batches(steps_per_epoch=steps_per_epoch, total=total) or 0
        if warmup > total:
            raise ConfigError(
                f"scheduler.warmup: {str(self.warmup)!r} is {warmup} batches, and the run has only {total}; shorten it"
            )

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return self.factor(step - warmup, total - warmup)

        return LambdaLR(optimizer, factor)

    @abstractmethod
    def factor(self, step: int, total: int) -> float:
        """Return the factor at ``step`` of the ``total`` steps that follow the warm-up."""


class Constant(SchedulerConfig):
    """The learning rate as it is, after the warm-up."""

    def factor(self, step: int, total: int) -> float:
        """Return 1.

        >>> Constant().factor(3, 10)
        1.0
        """
        return 1.0


class Cosine(SchedulerConfig):
    """Half a cosine from 1 down to ``final``, after the warm-up.

    Loshchilov and Hutter, ICLR 2017, https://arxiv.org/abs/1608.03983
    """

    final: float = Field(default=0.0, ge=0, le=1, description="factor at the end of the run")

    def factor(self, step: int, total: int) -> float:
        """Return ``final + (1 - final) * (1 + cos(pi * step / total)) / 2``.

        >>> Cosine().factor(0, 10), Cosine().factor(5, 10), Cosine(final=0.1).factor(10, 10)
        (1.0, 0.5, 0.1)
        """
        share = min(step / total, 1.0) if total else 1.0
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "adamw": AdamW,
    "sgd": SGD,
}
SCHEDULERS: dict[str, type[SchedulerConfig]] = {
    "constant": Constant,
    "cosine": Cosine,
}
