"""Lengths of training: ``10ep`` (epochs), ``500ba`` (batches), ``0.9dur`` (a share of the whole run)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from counterpoint.core.arguments import real_number, written
from counterpoint.core.errors import ArgumentError

__all__ = ["Duration"]

_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(ep|ba|dur)")
_LONGEST = 1e12


@dataclass(frozen=True)
class Duration:
    """A length of training, or a moment counted from its start.

    ``value`` is at least 0; ``unit`` is ``ep`` (epochs), ``ba`` (batches) or ``dur`` (a share of the run, at most 1).
    Batches are whole; parts of an epoch are allowed.

    >>> Duration.parse("10ep"), str(Duration.parse("0.9dur"))
    (Duration(value=10.0, unit='ep'), '0.9dur')
    >>> Duration.parse("2ep").batches(steps_per_epoch=50, total=1000)
    100

    Raises ``ArgumentError``, a ``ValueError``, for anything else.
    """

    value: float
    unit: str

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Read a duration as users write it."""
        if isinstance(text, Duration):
            return text
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ArgumentError(
                f"{written(text)} is no duration: write epochs as '10ep', batches as '500ba', a share as '0.9dur'"
            )
        return cls(float(match[1]), match[2])

    def __post_init__(self) -> None:
        """Check the value and its unit."""
        if not isinstance(self.unit, str) or self.unit not in ("ep", "ba", "dur"):
            raise ArgumentError(f"the unit of a duration is {written(self.unit)}; it is 'ep', 'ba' or 'dur'")
        value = real_number("the value of a duration", self.value)
        text = f"{value:g}{self.unit}"
        if value < 0 or not math.isfinite(value):
            raise ArgumentError(f"{text!r} is not finite, or below 0")
        if value > _LONGEST:
            raise ArgumentError(f"{text!r} is longer than any run; write '1e12{self.unit}' at most")
        if self.unit == "ba" and not value.is_integer():
            raise ArgumentError(f"{text!r}: batches are whole; write '{round(value)}ba'")
        if self.unit == "dur" and value > 1:
            raise ArgumentError(f"{text!r}: a share of the run is at most '1dur'")
        object.__setattr__(self, "value", value)

    def __str__(self) -> str:
        return f"{int(self.value) if float(self.value).is_integer() else self.value}{self.unit}"

    def batches(self, *, steps_per_epoch: int | None, total: int | None) -> int | None:
        """Return the length in device batches, rounded to the nearest; ``None`` if what it counts is not known."""
        if self.unit == "ba":
            return int(self.value)
        scale = steps_per_epoch if self.unit == "ep" else total
        if self.value == 0:
            return 0
        return None if scale is None else round(self.value * scale)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic models hold durations, written as text."""
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="always")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Tell editors the form of a duration."""
        return {"type": "string", "pattern": f"^{_FORM.pattern}$", "examples": ["10ep", "500ba", "0.9dur"]}
