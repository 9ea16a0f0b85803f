"""Faults that need no order: tasks, slots, batch sizes, references, hooks in a choice, conditional changes of kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from counterpoint.core.activity import check_activity
from counterpoint.core.errors import nearest
from counterpoint.core.events import Event
from counterpoint.core.facts import Facts
from counterpoint.core.faults import Fault, Terms
from counterpoint.core.kinds import Claim
from counterpoint.core.loss import LossSpec
from counterpoint.core.member import Member
from counterpoint.core.remedy import Choose, Drop, Remedy, Set, State

__all__ = ["check_members", "without"]


def check_members(
    members: Sequence[Member],
    named: Collection[str],
    loss: LossSpec | None,
    facts: Facts,
    terms: Terms,
    choice: str,
) -> Iterator[Fault]:
    """Find every fault that the members have whatever their order.

    ``named`` are the names that the list holds, those of methods with faults of their own included; ``choice`` names
    the method that chooses.
    """
    for member in members:
        for leaf in member.leaves:
            yield from _meaning(leaf, facts, terms)
        yield from _references(member, named, terms)
        yield from _choice(member)
        yield from _conditional(member, terms)
        yield from _passes(member, loss, facts, terms)
    yield from check_activity(members, facts, terms)
    yield from _slots(members, loss, terms, choice)


def _meaning(member: Member, facts: Facts, terms: Terms) -> Iterator[Fault]:
    smallest = member.algorithm.min_batch
    for tasks, who, fix in (
        (member.algorithm.tasks, member.identity, f"leave {member.identity} out"),
        (member.declaration.tasks, f"{member.identity} as it is set", f"set {member.identity} otherwise"),
    ):
        if tasks is None or facts.task.name in tasks:
            continue
        message = f"{who} has no meaning for {facts.task.name}; it has for {', '.join(sorted(tasks))}"
        drop = Drop(_listed(member))
        yield Fault("task-unsupported", message, fix, (member.identity,), Event.BATCH, (drop,))
    if facts.batch_size is not None and facts.batch_size < smallest:
        message = f"{member.identity} needs batches of at least {smallest}, and batch_size is {facts.batch_size}"
        where = " of the data" if terms is Terms.YAML else ""
        fix, state = f"set {terms.setting('batch_size', str(smallest))}{where}", State({"batch_size": smallest})
        yield Fault("batch-too-small", message, fix, (member.identity,), Event.BATCH, (state,))


def _references(member: Member, named: Collection[str], terms: Terms) -> Iterator[Fault]:
    for branch in member.branches:
        if branch.algorithm.after or branch.algorithm.before:
            message = f"{branch.identity} asks for an order, and the branches of {member.identity} are ordered as one"
            fix = f"put its `after` and `before` on {member.identity}"
            yield Fault("wish-impossible", message, fix, (member.identity, branch.identity), Event.BATCH)
    for key in ("after", "before"):
        wished: tuple[str, ...] = getattr(member.algorithm, key)
        for name in wished:
            if name == member.identity:
                message = f"{member.identity} asks to come {key} itself"
                fix = f"take {name!r} out of its {key!r}"
                yield Fault("wish-impossible", message, fix, (member.identity,), remedies=(without(member, key, name),))
            elif name not in named:
                message = f"{member.identity} asks to come {key} {name!r}, and no method of the list goes by that name"
                fix = f"name one that is listed{nearest(name, {*named} - {member.identity})}, or drop the wish"
                drop = without(member, key, name)
                yield Fault("unknown-reference", message, fix, (member.identity, name), remedies=(drop,))


def _choice(member: Member) -> Iterator[Fault]:
    for leaf in member.leaves if member.branches else ():
        if leaf.declaration.hooks:
            message = (
                f"{leaf.identity} edits training at {leaf.declaration.hooks[0].event.value}, beyond the batch: "
                "it cannot be chosen for one batch and not for the next"
            )
            fix = f"list {leaf.algorithm.name} beside {member.identity}, not in it"
            event = leaf.declaration.hooks[0].event
            yield Fault("branch-hook", message, fix, (member.identity, leaf.identity), event, (Drop(member.identity),))


def _conditional(member: Member, terms: Terms) -> Iterator[Fault]:
    always = {"start": "0ba", "end": None, "every": 1, "p": 1.0}
    if member.unscheduled and not member.schedule.unconditional:
        message = (
            f"{member.identity} acts outside of batches alone, so its schedule ({member.schedule}) switches nothing"
        )
        fix = "leave out its start, end, every and p"
        remedies = (Set(member.identity, always),)
        event = member.declaration.hooks[0].event
        yield Fault("schedule-unused", message, fix, (member.identity,), event, remedies)
    for leaf in member.leaves:
        gives = {edit.gives for effect in leaf.declaration.transforms for edit in effect.edits.values() if edit.gives}
        if gives and (member.branches or not leaf.schedule.unconditional):
            given = ", ".join(sorted(map(str, gives)))
            message = f"{leaf.identity} makes {given} of what it takes, and would be skipped on some batches"
            fix = "let it act on every batch: no start, end, every or p, and not within a choice"
            remedy = Drop(member.identity) if member.branches else Set(member.identity, always)
            yield Fault("conditional-kind", message, fix, (leaf.identity,), Event.BATCH, (remedy,))


def _passes(member: Member, loss: LossSpec | None, facts: Facts, terms: Terms) -> Iterator[Fault]:
    if facts.microbatches > 1 and any(hook.whole_batch for hook in member.declaration.hooks):
        message = (
            f"{member.identity} acts across the samples of a forward pass, and a device batch is split into "
            f"{facts.microbatches} microbatches"
        )
        fix = f"set {terms.setting('accumulate' if terms is Terms.YAML else 'microbatches', '1')}"
        state = State({"microbatches": 1})
        yield Fault("microbatches", message, fix, (member.identity,), Event.FORWARD, (state,))
    compares = any(effect.sample_losses for leaf in member.leaves for effect in leaf.declaration.transforms)
    if compares and (loss is None or loss.each is None):
        given = "there is no loss" if loss is None else f"the loss {loss.name} gives one number for a batch"
        message = f"{member.identity} compares the losses of samples, and {given}"
        fix = f"use a known loss, or leave {member.identity} out"
        drop = Drop(member.identity)
        yield Fault("no-sample-losses", message, fix, (member.identity,), Event.BATCH, (drop,))


def without(member: Member, key: str, name: str) -> Remedy:
    """Return the change that takes a name out of a member's ``after`` or ``before``."""
    wished: tuple[str, ...] = getattr(member.algorithm, key)
    return Set(member.identity, {key: tuple(other for other in wished if other != name)})


def _listed(leaf: Member) -> str:
    return leaf.identity.partition(".")[0]


def _slots(members: Sequence[Member], loss: LossSpec | None, terms: Terms, choice: str) -> Iterator[Fault]:
    owners: list[tuple[Member | None, Claim]] = [(member, claim) for member in members for claim in member.claims]
    if loss is not None:
        owners += [(None, claim) for claim in loss.claims]
    for (first, mine), (second, theirs) in combinations(owners, 2):
        if first is second or mine.slot.name != theirs.slot.name or (mine.shared and theirs.shared):
            continue
        if mine.slot.per_batch and first and second and not first.schedule.meets(second.schedule):
            continue
        if first is not None:
            yield _clash(first, second, mine, theirs, loss, terms, choice)


def _clash(
    first: Member, second: Member | None, mine: Claim, theirs: Claim, loss: LossSpec | None, terms: Terms, choice: str
) -> Fault:
    slot, one = mine.slot, first.identity
    other = second.identity if second is not None else f"the loss {loss.name if loss else ''}"
    message = f"{one} and {other} both claim the slot {slot.name!r}: {slot.why}"
    if mine.amount is not None and theirs.amount is not None:
        together = 1 - (1 - mine.amount) * (1 - theirs.amount)
        message += f" ({mine.amount:g} and {theirs.amount:g} make {together:g})"
    fix, remedy = slot.remedy, Drop(one) if second is None else Drop(other)
    if second is None:
        fix += f": take {one} out of the list, or the {slot.name} out of the loss"
    elif slot.per_batch:
        fix += ": give them an `end` and a `start` that do not meet"
        if choice and not (first.declaration.hooks or second.declaration.hooks):
            branches = [first.algorithm.component(), second.algorithm.component()]
            fix += f", or choose one a batch: {terms.choice(choice, branches)}"
            return Fault(slot.code, message, fix, (one, other), Event.BATCH, (Choose((one, other), choice),))
    return Fault(slot.code, message, fix, (one, other), _event_of(first, mine), (remedy,))


def _event_of(member: Member, claim: Claim) -> Event:
    """Return the span at which a member takes a slot."""
    hooks = [hook for leaf in member.leaves for hook in leaf.declaration.hooks if claim in hook.claims]
    return hooks[0].event if hooks else Event.BATCH
