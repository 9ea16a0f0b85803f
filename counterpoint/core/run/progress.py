"""Counts of the steps and checks of a plan in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from counterpoint.core.declare.effects import Contract

__all__ = ["CHECKED", "Progress"]

CHECKED = 2
"""On how many batches each edit, draw and hook is checked under ``Contract.FIRST_STEPS``, counted in each process."""


class Progress:
    """Counts the batches on which each part of a plan was checked.

    ``settled`` are parts whose checks are all done. A copy, or one in another process, goes on with those left.
    """

    def __init__(self) -> None:
        self._checks: Counter[str] = Counter()
        self.settled: set[str] = set()

    def start(self) -> None:
        """Restart the checks, as at each start of a loop."""
        self._checks.clear()
        self.settled.clear()

    def due(self, contract: Contract, names: Iterable[str]) -> bool:
        """Whether one of these parts is to be checked on this batch."""
        if contract is Contract.FIRST_STEPS:
            return any(self._checks[name] < CHECKED for name in names)
        return contract is Contract.ALWAYS

    def check(self, contract: Contract, names: Iterable[str]) -> bool:
        """Whether one of these parts is to be checked on this batch, which then counts for all of them."""
        if contract is Contract.OFF:
            return False
        given = list(names)
        due = bool(given) and self.due(contract, given)
        if due and contract is Contract.FIRST_STEPS:
            self._checks.update(given)
            self.settled.update(name for name in given if self._checks[name] >= CHECKED)
        return due
