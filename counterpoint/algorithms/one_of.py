"""OneOf: let one of several methods act on each batch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from counterpoint.core import Algorithm, Component

__all__ = ["OneOf"]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class OneOf(Algorithm[None], name="one_of"):
    """Let one of several methods act on each batch, chosen at random by weight.

    ``algorithms`` are instances (in a config or a list given to ``compose``: names, or mappings with ``name``);
    ``weights`` are one number for each, by default equal. ``compose`` refuses a branch of weight 0: it never acts.

    >>> from counterpoint.algorithms import CutMix, MixUp
    >>> OneOf(algorithms=[MixUp(), CutMix()], weights=[1, 3]).weights
    (1.0, 3.0)
    """

    algorithms: Annotated[tuple[Component, ...], BeforeValidator(_as_tuple)] = Field(
        min_length=1, description="the methods to choose from"
    )
    weights: Annotated[tuple[Annotated[float, Field(ge=0, le=1e30)], ...] | None, BeforeValidator(_as_tuple)] = Field(
        default=None, description="how often each is chosen, relative to the others; equal by default"
    )

    @model_validator(mode="after")
    def _check_weights(self) -> OneOf:
        if self.weights is not None and len(self.weights) != len(self.algorithms):
            raise ValueError(f"{len(self.weights)} weights for {len(self.algorithms)} algorithms: give one for each")
        if self.weights is not None and not sum(self.weights) > 0:
            raise ValueError("all weights are 0: at least one branch must have a weight above 0")
        return self

    def alternatives(self) -> tuple[tuple[Algorithm[Any], float], ...]:
        """Return the branches with their weights."""
        weights = self.weights or (1.0,) * len(self.algorithms)
        return tuple(zip(self.algorithms, weights, strict=True))
