"""The history of a run's metrics: a file to which lines are added, and that is compared with what was written."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from counterpoint.trainer.runs.integrity import DamagedError, read_bytes

__all__ = ["History", "Mark"]


class Mark(NamedTuple):
    """How long a history was at some moment, in bytes, and the SHA-256 of these."""

    size: int
    sha256: str


class History:
    """The lines of ``metrics.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = hashlib.sha256()
        self._size = 0

    @property
    def mark(self) -> Mark:
        """What was written so far."""
        return Mark(self._size, self._digest.hexdigest())

    def open(self, size: int) -> None:
        """Make the file if there is none, and cut it to its first ``size`` bytes; raises ``OSError``."""
        self.path.touch()
        if self.path.stat().st_size > size:
            os.truncate(self.path, size)
        self._digest, self._size = hashlib.sha256(), 0
        self._count(self.path.read_bytes() if self.path.is_file() else b"")

    def add(self, values: Mapping[str, float | int]) -> None:
        """Add a line, and have it on the disk; raises ``OSError``."""
        line = json.dumps({name: _finite(value) for name, value in values.items()}) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._count(line.encode())

    def _count(self, data: bytes) -> None:
        self._digest.update(data)
        self._size += len(data)

    def check(self, mark: Mark, *, to_end: bool = False) -> None:
        """Raise ``DamagedError`` unless the file begins as it was at ``mark``; with ``to_end`` it must end there too.

        Lines behind the mark are those of steps that will be trained again.
        """
        if not mark.size and not self.path.exists():
            return
        data = read_bytes(self.path)
        if len(data) < mark.size:
            raise DamagedError(f"it has {len(data)} bytes, and {mark.size} were written")
        if hashlib.sha256(data[: mark.size]).hexdigest() != mark.sha256:
            raise DamagedError("its lines are not those that were written")
        if to_end and len(data) > mark.size:
            raise DamagedError(f"it has {len(data)} bytes, and {mark.size} were written")

    def salvage(self, aside: Path, step: int) -> int:
        """Move a damaged file to ``aside``, and keep its whole lines up to ``step`` steps; return their size in bytes.

        They end before the first line that is not one. Raises ``OSError``.
        """
        kept = []
        if self.path.is_file():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if not _is_line(line, step):
                    break
                kept.append(line)
        if self.path.exists():
            self.path.replace(aside)
        return self.path.write_bytes(b"".join(kept))

    def last(self) -> dict[str, float]:
        """Return the numbers of the last line, nothing of an empty file; raises ``DamagedError`` if it is cut."""
        lines = read_bytes(self.path).splitlines() if self.path.exists() else []
        try:
            values = json.loads(lines[-1]) if lines else {}
        except (ValueError, RecursionError) as error:
            raise DamagedError("its last line is not JSON") from error
        if not isinstance(values, dict):
            raise DamagedError("its last line holds no JSON mapping")
        return values


def _is_line(line: bytes, step: int) -> bool:
    """Whether a line of a damaged file is whole, and not from after ``step`` steps."""
    try:
        held: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    number = held.get("step") if isinstance(held, dict) else None
    return line.endswith(b"\n") and isinstance(number, int) and number <= step


def _finite(value: float | int) -> float | int | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
