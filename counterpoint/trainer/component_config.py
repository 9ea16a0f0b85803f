"""The base class of what a config names: a model, a data set, an optimizer, a scheduler."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["ComponentConfig"]


class ComponentConfig(BaseModel):
    """The base of a config's parts: frozen, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
