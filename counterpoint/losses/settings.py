"""The settings of a loss that a config can name, and how its module is built from them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

__all__ = ["IgnoreIndex", "LossSettings", "ReducedLossSettings", "Weights"]

# Strict everywhere else, but a list in a config must become a tuple here.
_Weights = Annotated[tuple[Annotated[float, Field(ge=0, le=1e12)], ...], Field(strict=False, min_length=1)]
Weights = Annotated[_Weights | None, Field(description="a factor for each class, 0 or above; none: all 1")]
"""A weight for each class, or none."""
IgnoreIndex = Annotated[int, Field(ge=-(2**63), lt=2**63, description="the class index whose positions do not count")]
"""The class index of ignored positions."""


class LossSettings(BaseModel):
    """The base of a loss's settings: its fields are arguments of ``module``, lists as tensors.

    >>> class Squared(LossSettings):
    ...     module = nn.MSELoss
    >>> Squared().build()
    MSELoss()
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    module: ClassVar[type[nn.Module]]

    def build(self) -> nn.Module:
        """Return the loss module with these settings."""
        return self.module(**self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return {
            name: torch.tensor(value, dtype=torch.float32) if isinstance(value, tuple) else value
            for name, value in self
        }


class ReducedLossSettings(LossSettings):
    """The settings of a loss that is averaged or added over a batch."""

    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="whether the losses of a batch are averaged or added"
    )
