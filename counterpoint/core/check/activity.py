"""Faults of methods that can never act: by their schedule, coin, weight in a choice, or the length of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from counterpoint.core.faults import Fault
from counterpoint.core.plan.facts import Facts
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.schedule import Schedule
from counterpoint.core.remedies import Decide, Drop, Set, Way

__all__ = ["check_activity"]


def check_activity(members: Sequence[Member], facts: Facts) -> Iterator[Fault]:
    """Find every method, and every branch of a choice, that acts on no batch of the run."""
    for member in members:
        yield from _late(member, facts.clock.total)
        yield from _coin(member)
        yield from _branches(member, member.schedule, facts.clock.total)


def _late(member: Member, total: int | None) -> Iterator[Fault]:
    """Find a start that lies at or after the end of the run."""
    if total is None or member.schedule.start < total:
        return
    last = f"{total - 1}ba"
    message = (
        f"{member.identity} starts at batch {member.schedule.start}, and the run ends with batch {total - 1}: "
        "it would never act"
    )
    ways = ((Set(member.identity, {"start": last}),), (Drop(member.identity),), (Decide("make the run longer"),))
    yield Fault("empty-window", message, algorithms=(member.identity,), ways=ways)


def _coin(member: Member) -> Iterator[Fault]:
    """Find a probability of 0; a member without hooks within batches has another fault already."""
    if member.schedule.p > 0 or member.unscheduled:
        return
    message = f"{member.identity} acts with probability 0, which is never"
    ways = ((Set(member.identity, {"p": 1.0}),), (Drop(member.identity),), (Decide("set a probability above 0"),))
    yield Fault("never-acts", message, algorithms=(member.identity,), ways=ways)


def _branches(choice: Member, window: Schedule, total: int | None) -> Iterator[Fault]:
    """Find branches that are never chosen, or that act on no batch on which their choice acts."""
    for branch, weight in zip(choice.branches, choice.weights, strict=True):
        names = (choice.identity, branch.identity)
        out: Way = (Drop(branch.identity),)
        if weight == 0:
            message = f"{branch.identity} has the weight 0 in {choice.identity}, so it is never chosen"
            yield Fault("never-acts", message, algorithms=names, ways=(out, (Decide("give it a weight above 0"),)))
        yield from _late(branch, total)
        yield from _coin(branch)
        shared = window.meeting(branch.schedule)
        if shared is None or (total is not None and shared.start >= total > branch.schedule.start):
            message = (
                f"{branch.identity} acts on no batch on which {choice.identity} acts: the one acts "
                f"{_when(branch.schedule)}, the other {_when(window)}"
            )
            ways = ((Set(branch.identity, {"start": "0ba", "end": None, "every": 1}),), out)
            yield Fault("never-acts", message, algorithms=names, ways=ways)
        else:
            yield from _branches(branch, shared, total)


def _when(schedule: Schedule) -> str:
    return str(schedule) or "on every batch"
