"""Faults of methods that can never act: by their schedule, coin, weight in a choice, or the length of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from counterpoint.core.facts import Facts
from counterpoint.core.faults import Fault, Terms
from counterpoint.core.member import Member
from counterpoint.core.remedy import Remedy, Set
from counterpoint.core.schedule import Schedule

__all__ = ["check_activity"]


def check_activity(members: Sequence[Member], facts: Facts, terms: Terms) -> Iterator[Fault]:
    """Find every method, and every branch of a choice, that acts on no batch of the run."""
    for member in members:
        yield from _late(member, facts.clock.total, terms)
        yield from _coin(member, terms)
        yield from _branches(member, member.schedule, facts.clock.total, terms)


def _late(member: Member, total: int | None, terms: Terms) -> Iterator[Fault]:
    """Find a start that lies at or after the end of the run."""
    if total is None or member.schedule.start < total:
        return
    last = f"{total - 1}ba"
    message = (
        f"{member.identity} starts at batch {member.schedule.start}, and the run ends with batch {total - 1}: "
        "it would never act"
    )
    fix = f"set its start to {terms.text('start', last)} or earlier, or make the run longer"
    yield Fault("empty-window", message, fix, (member.identity,), remedies=_setting(member, "start", last))


def _coin(member: Member, terms: Terms) -> Iterator[Fault]:
    """Find a probability of 0; a member whose schedule switches nothing has a fault for that already."""
    if member.schedule.p > 0 or member.unscheduled:
        return
    message = f"{member.identity} acts with probability 0, which is never"
    fix = f"set {terms.setting('p', '1.0')}, or another probability above 0, or leave {member.identity} out"
    yield Fault("never-acts", message, fix, (member.identity,), remedies=_setting(member, "p", 1.0))


def _branches(choice: Member, window: Schedule, total: int | None, terms: Terms) -> Iterator[Fault]:
    """Find branches that are never chosen, or that act on no batch on which their choice acts."""
    for branch, weight in zip(choice.branches, choice.weights, strict=True):
        names = (choice.identity, branch.identity)
        if weight == 0:
            message = f"{branch.identity} has the weight 0 in {choice.identity}, so it is never chosen"
            fix = f"give it a weight above 0, or leave it out of {choice.identity}, with its weight"
            yield Fault("never-acts", message, fix, names)
        yield from _late(branch, total, terms)
        yield from _coin(branch, terms)
        shared = window.meeting(branch.schedule)
        if shared is None or (total is not None and shared.start >= total > branch.schedule.start):
            message = (
                f"{branch.identity} acts on no batch on which {choice.identity} acts: the one acts "
                f"{_when(branch.schedule)}, the other {_when(window)}"
            )
            fix = f"change the start, end or every of one of them, or leave {branch.identity} out"
            yield Fault("never-acts", message, fix, names)
        else:
            yield from _branches(branch, shared, total, terms)


def _when(schedule: Schedule) -> str:
    return str(schedule) or "on every batch"


def _setting(member: Member, key: str, value: object) -> tuple[Remedy, ...]:
    """Return the change of one setting; a branch is named by nobody outside its choice."""
    return () if "." in member.identity else (Set(member.identity, {key: value}),)
