"""Faults that need no order: tasks, slots, batch sizes, references, hooks in a choice, conditional changes of kind."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from counterpoint.core.check.activity import check_activity
from counterpoint.core.check.catalog import Catalog
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import Claim
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.errors import close_to, nearest
from counterpoint.core.faults import Fault
from counterpoint.core.plan.facts import Facts
from counterpoint.core.plan.member import Member
from counterpoint.core.remedies import Add, Choose, Decide, Drop, DropWish, Set, State, Way

__all__ = ["check_members"]

ALWAYS = {"start": "0ba", "end": None, "every": 1, "p": 1.0}


def check_members(
    members: Sequence[Member], named: Collection[str], loss: LossSpec | None, facts: Facts, catalog: Catalog
) -> Iterator[Fault]:
    """Find every fault that the members have whatever their order.

    ``named`` are the names that the list holds, those of methods with faults of their own included.
    """
    for member in members:
        for leaf in member.leaves:
            yield from _meaning(leaf, facts)
        yield from _references(member, named)
        yield from _choice(member)
        yield from _conditional(member)
        yield from _passes(member, loss, facts, catalog)
    yield from check_activity(members, facts)
    yield from _slots(members, loss, facts, catalog)


def _meaning(member: Member, facts: Facts) -> Iterator[Fault]:
    smallest = member.algorithm.min_batch
    for tasks, who in (
        (member.algorithm.tasks, member.identity),
        (member.declaration.tasks, f"{member.identity} as it is set"),
    ):
        if tasks is None or facts.task.name in tasks:
            continue
        message = f"{who} has no meaning for {facts.task.name}; it has for {', '.join(sorted(tasks))}"
        out: Way = (Drop(member.identity),)
        ways: tuple[Way, ...] = (
            (out,) if who == member.identity else (out, (Decide(f"set {member.identity} otherwise"),))
        )
        yield Fault("task-unsupported", message, algorithms=(member.identity,), event=Event.BATCH, ways=ways)
    if facts.batch_size is not None and facts.batch_size < smallest:
        message = f"{member.identity} needs batches of at least {smallest}, and batch_size is {facts.batch_size}"
        ways = ((State({"batch_size": smallest}),), (Drop(member.identity),))
        yield Fault("batch-too-small", message, algorithms=(member.identity,), event=Event.BATCH, ways=ways)


def _references(member: Member, named: Collection[str]) -> Iterator[Fault]:
    for branch in member.branches:
        if branch.algorithm.after or branch.algorithm.before:
            message = f"{branch.identity} asks for an order, and the branches of {member.identity} are ordered as one"
            ways = _outer_wishes(member, branch)
            parties = (member.identity, branch.identity)
            yield Fault("wish-impossible", message, algorithms=parties, event=Event.BATCH, ways=ways)
        yield from _references_of_branches(branch)
    for key in ("after", "before"):
        wished: tuple[str, ...] = getattr(member.algorithm, key)
        for name in wished:
            drop = DropWish(member.identity, key, name)
            if name == member.identity:
                message = f"{member.identity} asks to come {key} itself"
                yield Fault("wish-impossible", message, algorithms=(member.identity,), ways=((drop,),))
            elif name not in named:
                others = {*named} - {member.identity}
                message = (
                    f"{member.identity} asks to come {key} {name!r}, and no method of the list goes by that name"
                    f"{nearest(name, others)}"
                )
                meant = [
                    tuple(close if other == name else other for other in wished) for close in close_to(name, others)
                ]
                ways = (*((Set(member.identity, {key: names}),) for names in meant), (drop,))
                yield Fault("unknown-reference", message, algorithms=(member.identity, name), ways=ways)


def _references_of_branches(branch: Member) -> Iterator[Fault]:
    for inner in branch.branches:
        if inner.algorithm.after or inner.algorithm.before:
            message = f"{inner.identity} asks for an order, and the branches of {branch.identity} are ordered as one"
            ways = ((Set(inner.identity, {"after": (), "before": ()}),),)
            yield Fault("wish-impossible", message, algorithms=(inner.identity,), event=Event.BATCH, ways=ways)
        yield from _references_of_branches(inner)


def _outer_wishes(member: Member, branch: Member) -> tuple[Way, ...]:
    """Return the changes that put the wishes of a branch on its choice, or drop them."""
    drop = Set(branch.identity, {key: () for key in ("after", "before") if getattr(branch.algorithm, key)})
    within = {member.identity, *(other.algorithm.identity for other in member.branches)}
    outer = {
        key: tuple(dict.fromkeys((*getattr(member.algorithm, key), *(n for n in wished if n not in within))))
        for key in drop.settings
        if (wished := getattr(branch.algorithm, key))
    }
    kept = {key: names for key, names in outer.items() if names != getattr(member.algorithm, key)}
    return ((drop, Set(member.identity, kept)), (drop,)) if kept else ((drop,),)


def _choice(member: Member) -> Iterator[Fault]:
    for leaf in member.leaves if member.branches else ():
        if leaf.declaration.hooks:
            event = leaf.declaration.hooks[0].event
            message = (
                f"{leaf.identity} edits training at {event.value}, beyond the batch: "
                "it cannot be chosen for one batch and not for the next"
            )
            ways: tuple[Way, ...] = (_beside(leaf), (Drop(leaf.identity),), (Drop(member.identity),))
            parties = (member.identity, leaf.identity)
            yield Fault("branch-hook", message, algorithms=parties, event=event, ways=ways)


def _beside(leaf: Member) -> Way:
    """Return the change that takes a branch out of its choice and lists it beside it."""
    wishes = ("after", "before")
    item = {key: value for key, value in leaf.algorithm.component().items() if key not in wishes}
    return Drop(leaf.identity), Add(item)


def _conditional(member: Member) -> Iterator[Fault]:
    if member.unscheduled and not member.schedule.unconditional:
        message = (
            f"{member.identity} acts outside of batches alone, so its schedule ({member.schedule}) switches nothing"
        )
        event = member.declaration.hooks[0].event
        ways: tuple[Way, ...] = ((Set(member.identity, ALWAYS),),)
        yield Fault("schedule-unused", message, algorithms=(member.identity,), event=event, ways=ways)
    for leaf in member.leaves:
        gives = {edit.gives for effect in leaf.declaration.transforms for edit in effect.edits.values() if edit.gives}
        if gives and (member.branches or not leaf.schedule.unconditional):
            given = ", ".join(sorted(map(str, gives)))
            message = f"{leaf.identity} makes {given} of what it takes, and would be skipped on some batches"
            ways = ((Set(leaf.identity, ALWAYS),),)
            if member.branches:
                ways = ((*_beside(leaf), *_always(leaf)), (Drop(leaf.identity),), (Drop(member.identity),))
            yield Fault("conditional-kind", message, algorithms=(leaf.identity,), event=Event.BATCH, ways=ways)


def _always(leaf: Member) -> Way:
    return () if leaf.schedule.unconditional else (Set(leaf.algorithm.identity, ALWAYS),)


def _passes(member: Member, loss: LossSpec | None, facts: Facts, catalog: Catalog) -> Iterator[Fault]:
    if facts.microbatches > 1 and any(hook.whole_batch for hook in member.declaration.hooks):
        message = (
            f"{member.identity} acts across the samples of a forward pass, and a device batch is split into "
            f"{facts.microbatches} microbatches"
        )
        ways: tuple[Way, ...] = ((State({"microbatches": 1}),), (Drop(member.identity),))
        yield Fault("microbatches", message, algorithms=(member.identity,), event=Event.FORWARD, ways=ways)
    compares = any(effect.sample_losses for leaf in member.leaves for effect in leaf.declaration.transforms)
    if compares and (loss is None or loss.each is None):
        given = "there is no loss" if loss is None else f"the loss {loss.name} gives one number for a batch"
        message = f"{member.identity} compares the losses of samples, and {given}"
        ways = (
            *((State({"loss": name}),) for name in catalog.losses_for(facts.task.targets)),
            (Drop(member.identity),),
        )
        yield Fault("no-sample-losses", message, algorithms=(member.identity,), event=Event.BATCH, ways=ways)


def _slots(members: Sequence[Member], loss: LossSpec | None, facts: Facts, catalog: Catalog) -> Iterator[Fault]:
    owners: list[tuple[Member | None, Claim]] = [(member, claim) for member in members for claim in member.claims]
    if loss is not None:
        owners += [(None, claim) for claim in loss.claims]
    for (first, mine), (second, theirs) in combinations(owners, 2):
        if first is second or mine.slot.name != theirs.slot.name or (mine.shared and theirs.shared):
            continue
        if mine.slot.per_batch and first and second and not first.schedule.meets(second.schedule):
            continue
        if first is not None:
            yield _clash(first, second, (mine, theirs), loss, facts, catalog)


def _clash(
    first: Member,
    second: Member | None,
    claims: tuple[Claim, Claim],
    loss: LossSpec | None,
    facts: Facts,
    catalog: Catalog,
) -> Fault:
    mine, theirs = claims
    slot, one = mine.slot, first.identity
    other = second.identity if second is not None else f"the loss {loss.name if loss else ''}"
    message = f"{one} and {other} both claim the slot {slot.name!r}: {slot.why}"
    if mine.amount is not None and theirs.amount is not None:
        together = 1 - (1 - mine.amount) * (1 - theirs.amount)
        message += f" ({mine.amount:g} and {theirs.amount:g} make {together:g})"
    event = _event_of(first, mine)
    if second is None:
        ways: tuple[Way, ...] = ((Drop(one),), (Decide(f"take the {slot.name} out of the loss"),))
        return Fault(slot.code, message, algorithms=(one, other), event=event, ways=ways)
    ways = ((Drop(other),), (Drop(one),))
    if slot.per_batch:
        hooks = first.declaration.hooks or second.declaration.hooks
        choose: tuple[Way, ...] = ((Choose((one, other), catalog.choice),),) if catalog.choice and not hooks else ()
        ways = (*choose, *_windows(first, second, facts), *ways)
        event = Event.BATCH if choose else event
    return Fault(slot.code, message, algorithms=(one, other), event=event, ways=ways)


def _windows(first: Member, second: Member, facts: Facts) -> Iterator[Way]:
    """Yield the changes that let one of two members end where the other starts."""
    early, late = sorted((first, second), key=lambda member: member.schedule.start)
    total = facts.clock.total
    middles = [late.schedule.start] if late.schedule.start > early.schedule.start else []
    middles += [100] if total is None else [total // 2]
    for middle in middles:
        start = () if late.schedule.start == middle else (Set(late.identity, {"start": f"{middle}ba"}),)
        yield (Set(early.identity, {"end": f"{middle}ba"}), *start)


def _event_of(member: Member, claim: Claim) -> Event:
    """Return the span at which a member takes a slot."""
    hooks = [hook for leaf in member.leaves for hook in leaf.declaration.hooks if claim in hook.claims]
    return hooks[0].event if hooks else Event.BATCH
