"""The new faults after a change of a composition."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from counterpoint.core.check.fixes.changes import identity_of
from counterpoint.core.faults import Fault
from counterpoint.core.remedies import Choose, Way

__all__ = ["brought_by"]

ONE_PARTY = frozenset({"loss-targets", "model-inputs"})
"""Faults of the one loss or the one model; their further parties are the methods that cause them."""


def brought_by(
    way: Way, fixed: Fault, before: Sequence[Fault], after: Sequence[Fault], listed: Sequence[object]
) -> list[Fault]:
    """Return the faults after a change of ``listed`` that are not among those before it, without the fixed one.

    A fault is one of those before if it has the code of one, and no party that was listed then and was none of its. A
    party may be gone or renamed, and a choice has the faults of its branches.
    """
    rest = list(before)
    rest.remove(fixed)
    known = {identity_of(item) for item in listed} | {name for fault in before for name in fault.algorithms}
    parties = [_parties(fault, way) for fault in rest]
    taken: dict[int, int] = {}

    def match(number: int, tried: set[int]) -> bool:
        for place, old in enumerate(rest):
            if place in tried or not _same(after[number], old, parties[place], known):
                continue
            tried.add(place)
            if place not in taken or match(taken[place], tried):
                taken[place] = number
                return True
        return False

    return [fault for number, fault in enumerate(after) if not match(number, set())]


def _same(new: Fault, old: Fault, parties: Collection[str], known: Collection[str | None]) -> bool:
    if new.code != old.code or new.code in ONE_PARTY:
        return new.code == old.code
    return all(name in parties for name in new.algorithms if name in known)


def _parties(fault: Fault, way: Way) -> set[str]:
    """Return the parties of a fault, and with one that becomes a branch all of that choice, which takes a free name."""
    choices = [{*remedy.algorithms} for remedy in way if isinstance(remedy, Choose)]
    return {*fault.algorithms}.union(*(names for names in choices if names & {*fault.algorithms}))
