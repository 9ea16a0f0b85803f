"""The plain data of a checkpoint: the keys of its ``state.json`` and their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from counterpoint.trainer.runs.history import Mark

__all__ = ["RunState", "check_state"]


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class _Component(_Plain):
    name: str
    distribution: str | None
    version: str | None
    source: str | None


class _Package(_Plain):
    version: str | None
    files: dict[str, str]


class _Code(_Plain):
    components: dict[str, _Component]
    packages: dict[str, _Package]
    libraries: dict[str, str | None]


class _Part(_Plain):
    examples: int | None
    counts: dict[str, int] | None
    fingerprint: str | None


class _Data(_Plain):
    classes: list[str]
    train: _Part
    evaluation: _Part


class RunState(_Plain):
    """The plain data of a checkpoint of format 1.

    ``metrics_size`` and ``metrics_sha256`` mark the metrics so far, ``measured`` says whether those of ``step`` are
    among them. ``code`` is what ``provenance`` returns, ``data`` what ``data_record`` does.
    """

    step: int = Field(ge=0)
    total: int = Field(ge=1)
    fingerprint: str
    config: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, Any] | None
    metrics_size: int = Field(ge=0)
    metrics_sha256: str
    measured: bool
    lr: float
    processes: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    code: _Code
    data: _Data

    @property
    def mark(self) -> Mark:
        """How long the metrics were, and their checksum."""
        return Mark(self.metrics_size, self.metrics_sha256)


def check_state(data: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` with the keys that are missing or wrong, if data is not that of a checkpoint."""
    try:
        RunState.model_validate(data)
    except ValidationError as error:
        wrong = [".".join(map(str, found["loc"])) for found in error.errors(include_url=False)]
        raise ValueError(f"state.json: missing or wrong: {', '.join(wrong)}") from error
