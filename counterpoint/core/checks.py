"""Faults that need no order: tasks, slots, batch sizes, references, hooks in a choice, conditional changes of kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from counterpoint.core.errors import nearest
from counterpoint.core.facts import Facts
from counterpoint.core.faults import Fault, Terms
from counterpoint.core.kinds import Claim
from counterpoint.core.loss import LossSpec
from counterpoint.core.member import Member

__all__ = ["check_members"]


def check_members(members: Sequence[Member], loss: LossSpec | None, facts: Facts, terms: Terms) -> Iterator[Fault]:
    """Find every fault that the members have whatever their order."""
    for member in members:
        for leaf in member.leaves:
            yield from _meaning(leaf, facts, terms)
        yield from _references(member, members, terms)
        yield from _choice(member)
        yield from _conditional(member, terms)
        yield from _passes(member, loss, facts, terms)
    yield from _slots(members, loss, terms)


def _meaning(member: Member, facts: Facts, terms: Terms) -> Iterator[Fault]:
    tasks, smallest = member.algorithm.tasks, member.algorithm.min_batch
    if tasks is not None and facts.task.name not in tasks:
        message = f"{member.identity} has no meaning for {facts.task.name}; it has for {', '.join(sorted(tasks))}"
        yield Fault("task-unsupported", message, f"leave {member.identity} out", (member.identity,))
    if facts.batch_size is not None and facts.batch_size < smallest:
        message = f"{member.identity} needs batches of at least {smallest}, and batch_size is {facts.batch_size}"
        yield Fault("batch-too-small", message, f"set {terms.setting('batch_size', str(smallest))}", (member.identity,))


def _references(member: Member, members: Sequence[Member], terms: Terms) -> Iterator[Fault]:
    known = {other.identity for other in members}
    for key in ("after", "before"):
        wished: tuple[str, ...] = getattr(member.algorithm, key)
        for name in wished:
            if name == member.identity:
                message = f"{member.identity} asks to come {key} itself"
                yield Fault("wish-impossible", message, f"take {name!r} out of its {key!r}", (member.identity,))
            elif name not in known:
                message = f"{member.identity} asks to come {key} {name!r}, and no method of the list goes by that name"
                fix = f"name one that is listed{nearest(name, known - {member.identity})}, or drop the wish"
                yield Fault("unknown-reference", message, fix, (member.identity,))


def _choice(member: Member) -> Iterator[Fault]:
    for leaf in member.leaves if member.branches else ():
        if leaf.declaration.hooks:
            message = (
                f"{leaf.identity} edits training at {leaf.declaration.hooks[0].event.value}, beyond the batch: "
                "it cannot be chosen for one batch and not for the next"
            )
            fix = f"list {leaf.algorithm.name} beside {member.identity}, not in it"
            yield Fault("branch-hook", message, fix, (member.identity, leaf.identity))


def _conditional(member: Member, terms: Terms) -> Iterator[Fault]:
    for leaf in member.leaves:
        gives = {edit.gives for effect in leaf.declaration.transforms for edit in effect.edits.values() if edit.gives}
        if gives and (member.branches or not leaf.schedule.unconditional):
            given = ", ".join(sorted(map(str, gives)))
            message = f"{leaf.identity} makes {given} of what it takes, and would be skipped on some batches"
            fix = "let it act on every batch: no start, end, every or p, and not within a choice"
            yield Fault("conditional-kind", message, fix, (leaf.identity,))


def _passes(member: Member, loss: LossSpec | None, facts: Facts, terms: Terms) -> Iterator[Fault]:
    if facts.microbatches > 1 and any(hook.whole_batch for hook in member.declaration.hooks):
        message = (
            f"{member.identity} acts across the samples of a forward pass, and a device batch is split into "
            f"{facts.microbatches} microbatches"
        )
        fix = f"set {terms.setting('accumulate' if terms is Terms.YAML else 'microbatches', '1')}"
        yield Fault("microbatches", message, fix, (member.identity,))
    compares = any(effect.sample_losses for leaf in member.leaves for effect in leaf.declaration.transforms)
    if compares and (loss is None or loss.each is None):
        given = "there is no loss" if loss is None else f"the loss {loss.name} gives one number for a batch"
        message = f"{member.identity} compares the losses of samples, and {given}"
        yield Fault(
            "no-sample-losses", message, f"use a known loss, or leave {member.identity} out", (member.identity,)
        )


def _slots(members: Sequence[Member], loss: LossSpec | None, terms: Terms) -> Iterator[Fault]:
    owners: list[tuple[str, Member | None, Claim]] = [
        (member.identity, member, claim) for member in members for claim in member.claims
    ]
    if loss is not None:
        owners += [(f"the loss {loss.name}", None, claim) for claim in loss.claims]
    for (one, first, mine), (other, second, theirs) in combinations(owners, 2):
        if one == other or mine.slot.name != theirs.slot.name or (mine.shared and theirs.shared):
            continue
        if mine.slot.per_batch and first and second and not first.schedule.meets(second.schedule):
            continue
        yield _clash(one, other, mine, theirs, both_listed=first is not None and second is not None, terms=terms)


def _clash(one: str, other: str, mine: Claim, theirs: Claim, *, both_listed: bool, terms: Terms) -> Fault:
    slot = mine.slot
    message = f"{one} and {other} both claim the slot {slot.name!r}: {slot.why}"
    if mine.amount is not None and theirs.amount is not None:
        together = 1 - (1 - mine.amount) * (1 - theirs.amount)
        message += f" ({mine.amount:g} and {theirs.amount:g} make {together:g})"
    fix = slot.remedy
    if slot.per_batch and both_listed:
        fix += f": {terms.choice(one, other)}, or give them an `end` and a `start` that do not meet"
    elif not both_listed:
        fix += f": take {one} out of the list, or the {slot.name} out of the loss"
    return Fault(slot.code, message, fix, (one, other))
