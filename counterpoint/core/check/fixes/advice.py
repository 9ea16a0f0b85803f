"""Choose the fix of a fault by checking the changed composition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from counterpoint.core.check.fixes.changes import apply_changes
from counterpoint.core.check.fixes.consequences import brought_by
from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.check.fixes.wording import in_terms, worded
from counterpoint.core.errors import CounterpointError
from counterpoint.core.faults import Fault
from counterpoint.core.remedies import Decide, Drop, State, Way, decides

__all__ = ["Check", "advise"]

Check = Callable[[Sequence[object], Mapping[str, Any]], Sequence[Fault]]
"""Returns the faults of a list of algorithms under the facts stated of them, without advice."""

TRIES, DEPTH, FURTHER, OFFERED = 400, 4, 8, 2
UNDECIDED = "decide which of the parties to leave out, or what else to change: no change that was tried works"


class _Trial:
    """The faults of one composition, and those after a change of it."""

    def __init__(
        self, faults: Sequence[Fault], listed: Sequence[object], stated: Mapping[str, Any], check: Check, terms: Terms
    ) -> None:
        self.listed, self.stated, self.terms = listed, stated, terms
        self.before = faults
        self.left = TRIES
        self._check = check

    def leads_on(self, fault: Fault, way: Way) -> Way | None:
        """Return a fix that removes a fault and causes no other: the given one or a longer one."""
        brought = self._brought(fault, way)
        for _ in range(DEPTH):
            if not brought:
                return None if brought is None else way
            if brought[0].code == fault.code:
                return None
            way, brought = self._longer(fault, way, brought)
        return way if brought == [] else None

    def _longer(self, fault: Fault, way: Way, brought: Sequence[Fault]) -> tuple[Way, list[Fault] | None]:
        """Return the fix together with a fix of the faults that it causes: the first that leaves the fewest."""
        best: tuple[Way, list[Fault] | None] = (way, None)
        further = [more for other in brought for more in self._ways(other) if not decides(more)]
        for more in further[:FURTHER]:
            left = self._brought(fault, (*way, *more))
            if left is not None and (best[1] is None or len(left) < len(best[1])):
                best = (*way, *more), left
            if left == []:
                break
        return best

    def _brought(self, fault: Fault, way: Way) -> list[Fault] | None:
        after = self._after(way)
        return None if after is None else brought_by(way, fault, self.before, after, self.listed)

    def _ways(self, fault: Fault) -> list[Way]:
        return in_terms(fault.ways or ((fault.remedies,) if fault.remedies else ()), self.terms)

    def ways(self, fault: Fault) -> list[Way]:
        """Return the fixes that a program can apply, followed by the removal of each method of the fault."""
        out = [(Drop(name),) for name in reversed(fault.algorithms)]
        return list(dict.fromkeys([*(way for way in self._ways(fault) if not decides(way)), *out]))

    def decisions(self, fault: Fault) -> list[Way]:
        return [way for way in self._ways(fault) if decides(way)]

    def does_the_same(self, way: Way, other: Way) -> bool:
        """Whether two ways lead to the same composition, as leaving out its last item by name.

        A fact of ``None`` is one that is not stated.
        """
        ends = [apply_changes(self.listed, self.stated, each) for each in (way, other)]
        lists, facts = zip(*ends, strict=True)
        said = [{key: value for key, value in each.items() if value is not None} for each in facts]
        return lists[0] == lists[1] and said[0] == said[1]

    def _after(self, way: Way) -> Sequence[Fault] | None:
        if self.left <= 0:
            return None
        self.left -= 1
        try:
            return self._check(*apply_changes(self.listed, self.stated, way))
        except (CounterpointError, LookupError, TypeError, ValueError):  # the change itself cannot be made
            return None


def advise(
    faults: Sequence[Fault], listed: Sequence[object], stated: Mapping[str, Any], check: Check, terms: Terms
) -> list[Fault]:
    """Return faults with fixes that work: each removes its fault, and causes no other that a check can find.

    A fix that causes another fault is extended by the fix of that one. If no change works, the fix says what a person
    must decide.
    """
    trial = _Trial(faults, listed, stated, check, terms)
    return [_advised(fault, trial) for fault in faults]


def _advised(fault: Fault, trial: _Trial) -> Fault:
    offered: list[Way] = []
    own = len(trial._ways(fault))
    for place, way in enumerate(trial.ways(fault)):
        if len(offered) == OFFERED or (offered and place >= own):
            break
        found = trial.leads_on(fault, way)
        if found is None:
            continue
        if offered and trial.does_the_same(found, offered[0]):
            offered[0] = min(offered[0], found, key=len)
        elif not offered or (found == way and not _same(found, offered[0])):
            offered.append(found)
    decisions = trial.decisions(fault)
    if not offered and not decisions:
        decisions = [(Decide(fault.fix or UNDECIDED),)]
    ways = (*offered, *decisions)
    return replace(worded(fault, ways, trial.listed, trial.terms), ways=ways)


def _same(way: Way, other: Way) -> bool:
    """Whether two ways state the same facts, with other values."""
    facts = [{key for key, value in _stated(each).items() if value is not None} for each in (way, other)]
    return facts[0] == facts[1] != set()


def _stated(way: Way) -> dict[str, Any]:
    return {key: value for remedy in way if isinstance(remedy, State) for key, value in remedy.facts.items()}
