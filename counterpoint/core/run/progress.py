"""Counts of the steps and checks of a plan in this process."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

from counterpoint.core.declare.effects import Contract
from counterpoint.core.errors import RepeatedStepWarning

__all__ = ["CHECKED", "Progress"]

CHECKED = 2
"""On how many batches each edit, draw and hook is checked under ``Contract.FIRST_STEPS``, counted in each process."""

_WORD = 512
"""Steps in one integer: a long run takes a few bits a step."""


class Progress:
    """Counts the steps that a plan was called for, and the batches on which each of its parts was checked.

    A copy, or one in another process, goes on with the checks that are left. It has been called for no step yet.
    """

    def __init__(self) -> None:
        self._checks: Counter[str] = Counter()
        self._seen: dict[tuple[int, int], int] = {}
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {"_checks": self._checks, "_seen": {}, "_warned": False}

    def start(self) -> None:
        """Restart the checks, as at each start of a loop."""
        self._checks.clear()

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
        return due

    def call(self, step: int, rank: int) -> None:
        """Note that the plan is called for a step; warn the first time that it was called for it before."""
        if self._warned:
            return
        word, bit = (rank, step // _WORD), 1 << step % _WORD
        seen = self._seen.get(word, 0)
        self._seen[word] = seen | bit
        if seen & bit:
            self._warned = True
            self._seen.clear()
            warnings.warn(
                f"step {step} was edited before, and the same step gets the same draws: count device batches over all "
                "epochs, as in plan(x, y, step=step); step += 1. To edit a step again on purpose, write "
                "plan(x, y, step=step, repeat=True)",
                RepeatedStepWarning,
                stacklevel=3,
            )
