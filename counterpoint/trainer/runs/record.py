"""The record of the code and the data of a run, which is written with its config and its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from counterpoint.trainer.runs.data_record import data_changes
from counterpoint.trainer.runs.provenance import code_changes, summary

__all__ = ["RunRecord"]


@dataclass(frozen=True)
class RunRecord:
    """The code of a run, as ``provenance`` returns it, and its data, as ``data_record`` does."""

    code: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    def changes(self, before: Mapping[str, Any]) -> list[str]:
        """Return what differs from the data of a checkpoint, a line each."""
        return [*data_changes(before["data"], self.data), *code_changes(before["code"], self.code)]

    def comment(self) -> str:
        """Return the code in lines of a comment, as YAML has them."""
        return "".join(f"# {line}\n" for line in summary(self.code))
