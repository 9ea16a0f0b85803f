"""From the user's list to members: algorithms with a name within the composition and a schedule in batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import pydantic

from counterpoint.core.algorithm import Algorithm, build
from counterpoint.core.arguments import written
from counterpoint.core.effects import Declaration, Phase
from counterpoint.core.errors import PluginError, UnknownNameError, nearest
from counterpoint.core.faults import Fault, Terms
from counterpoint.core.kinds import Claim, Field
from counterpoint.core.remedy import Set
from counterpoint.core.schedule import Clock, Schedule

__all__ = ["Member", "Resolver", "enlist", "explain_settings", "named"]

Resolver = Callable[[str], type[Algorithm[Any]]]

HELD_ALIKE = frozenset({Field.PARAMETERS, Field.GRADIENTS, Field.MODULES, Field.OPTIMIZER})
"""What all ranks hold alike, and would no more if each edited it by draws of its own."""

OTHER_NAME = "write one of the registered names; `counterpoint list` shows them"
MEND_PACKAGE = "mend, upgrade or uninstall the package; `counterpoint list --check` shows each that is broken"


@dataclass(frozen=True)
class Member:
    """An algorithm of a composition: its identity, its schedule, and the branches among which it chooses, if any."""

    algorithm: Algorithm[Any]
    identity: str
    schedule: Schedule
    declaration: Declaration
    branches: tuple[Member, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def leaves(self) -> tuple[Member, ...]:
        """The members that act: itself, or the leaves of its branches."""
        return tuple(leaf for branch in self.branches for leaf in branch.leaves) if self.branches else (self,)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Every slot that it owns, each once."""
        return tuple(dict.fromkeys(claim for leaf in self.leaves for claim in leaf.declaration.claims))

    @property
    def random(self) -> bool:
        """Whether anything about it is drawn: its coin, its branch, or what its ``draw`` returns."""
        return self.schedule.p < 1 or bool(self.branches) or type(self.algorithm).draw is not Algorithm.draw

    @property
    def unscheduled(self) -> bool:
        """Whether its schedule switches nothing, since it acts outside of batches alone."""
        hooks = self.declaration.hooks
        return bool(hooks) and not (self.declaration.transforms or any(hook.event.in_batch for hook in hooks))

    @cached_property
    def rank_free(self) -> bool:
        """Whether every rank gets the same draws: as declared, or because it edits what all ranks must hold alike."""
        hooks = [hook for leaf in self.leaves for hook in leaf.declaration.hooks]
        return self.algorithm.shared or any(hook.phase is Phase.REPLACE or hook.writes & HELD_ALIKE for hook in hooks)

    @cached_property
    def acts_alike(self) -> bool:
        """Whether it acts on the same batches on every rank, as it must if it runs the model, which may be sharded."""
        transforms = [transform for leaf in self.leaves for transform in leaf.declaration.transforms]
        return self.rank_free or any(transform.sample_losses for transform in transforms)


def enlist(given: Sequence[object], resolve: Resolver, clock: Clock, terms: Terms) -> tuple[list[Member], list[Fault]]:
    """Make members of the list that a user gave; every fault is found, and faulty items are left out."""
    members: list[Member] = []
    identities: list[str] = []
    faults: list[Fault] = []
    for position, item in enumerate(given):
        try:
            algorithm = build(item, resolve)
        except (PluginError, pydantic.ValidationError, ValueError) as error:
            faults += _unbuilt(item, position, error, resolve, terms)
            continue
        identities.append(algorithm.identity)
        members += _member(algorithm, algorithm.identity, clock, terms, faults)
    faults += _duplicates(identities, members, terms)
    return members, faults


def named(given: Sequence[object]) -> frozenset[str]:
    """Return the names by which the items of a list go, also of those that cannot be made.

    >>> sorted(named(["mixup", {"name": "cutout", "id": "holes", "length": 7}, None]))
    ['holes', 'mixup']
    """
    return frozenset(name for name in map(_name_of, given) if name is not None)


def _name_of(item: object) -> str | None:
    if isinstance(item, Algorithm):
        return item.identity
    name = (item.get("id") or item.get("name")) if isinstance(item, Mapping) else item
    return name if isinstance(name, str) else None


def _member(
    algorithm: Algorithm[Any], identity: str, clock: Clock, terms: Terms, faults: list[Fault]
) -> Iterator[Member]:
    schedule = _schedule(algorithm, identity, clock, terms, faults)
    branches: list[Member] = []
    alternatives = algorithm.alternatives()
    for branch, _ in alternatives:
        branches += _member(branch, f"{identity}.{branch.identity}", clock, terms, faults)
    if schedule is not None and len(branches) == len(alternatives):
        weights = tuple(weight for _, weight in alternatives)
        yield Member(algorithm, identity, schedule, algorithm.declared(), tuple(branches), weights)


def _schedule(
    algorithm: Algorithm[Any], identity: str, clock: Clock, terms: Terms, faults: list[Fault]
) -> Schedule | None:
    try:
        start = clock.batches(algorithm.start)
        end = None if algorithm.end is None else clock.batches(algorithm.end)
    except LookupError as unknown:
        fact = str(unknown.args[0])
        epochs = fact == "steps_per_epoch"
        unit = "epochs" if epochs else "shares of the run"
        stated = terms.setting(fact, "100") if epochs else terms.text(fact, "10ep")
        message = f"{identity} counts its start or end in {unit}"
        fix = f"state {stated}, or count batches, as '500ba'"
        faults.append(Fault("duration-unknown", f"{message}, and {fact} is not stated", fix, (identity,)))
        return None
    if end is not None and end <= start:
        message = f"{identity} would end at batch {end}, before or when it starts at batch {start}: it would never act"
        fix = f"leave its end out, or set it to {terms.text('end', f'{start + 1}ba')} or later"
        remedies = () if "." in identity else (Set(identity, {"end": None}),)  # a branch is named by nobody outside
        faults.append(Fault("empty-window", message, fix, (identity,), remedies=remedies))
        return None
    return Schedule(start, end, algorithm.every, algorithm.p)


def _duplicates(identities: Sequence[str], members: Sequence[Member], terms: Terms) -> Iterator[Fault]:
    for identity in dict.fromkeys(identities):
        count = identities.count(identity)
        if count > 1:
            free = (f"{identity}_{number}" for number in itertools.count(2))
            ids = list(itertools.islice((name for name in free if name not in identities), count - 1))
            yield Fault(
                "duplicate-id",
                f"{count} methods of the list go by the name {identity!r}, so neither draws nor orders tell them apart",
                f"give each an id of its own, as {terms.text('id', ids[0])}",
                (identity,),
                remedies=tuple(Set(identity, {"id": name}) for name in ids),
            )
    for member in members:
        inner = [branch.algorithm.identity for branch in member.branches]
        for identity in sorted({name for name in inner if inner.count(name) > 1}):
            yield Fault(
                "duplicate-id",
                f"{member.identity} has {inner.count(identity)} branches that go by the name {identity!r}",
                f"give each an id of its own, as {terms.text('id', identity + '_2')}",
                (member.identity,),
            )


def _unbuilt(item: object, position: int, error: Exception, resolve: Resolver, terms: Terms) -> list[Fault]:
    place = f"algorithms.{position}" if terms is Terms.YAML else f"algorithms[{position}]"
    given = item.get("name") if isinstance(item, Mapping) else item
    name = given if isinstance(given, str) else ""
    if isinstance(error, pydantic.ValidationError):
        return explain_settings(error, place, resolve(name))
    if isinstance(error, PluginError):
        unknown = isinstance(error, UnknownNameError)
        code, fix = ("unknown-algorithm", OTHER_NAME) if unknown else ("broken-plugin", MEND_PACKAGE)
        return [Fault(code, f"{place}: {error}", fix, (name,))]
    return [Fault("not-an-algorithm", f"{place}: {error}", "write the name of a method, or a mapping with its name")]


def explain_settings(error: pydantic.ValidationError, place: str, algorithm: type[Algorithm[Any]]) -> list[Fault]:
    """Turn pydantic's errors about the settings of one algorithm into faults, one for each setting.

    ``place`` says where the algorithm stands, as ``algorithms.0``.
    """
    faults = []
    details = error.errors()
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    for detail in details:
        if detail["loc"] in inner:  # a list is wrong, too, where one of its items is
            continue
        path = ".".join(str(part) for part in detail["loc"])
        message = f"{place} ({algorithm.name}): {path} is {written(detail['input'])}: {detail['msg']}"
        fix = f"give {path} an allowed value; `counterpoint show {algorithm.name}` lists them"
        if detail["type"] == "extra_forbidden":
            known = list(algorithm.model_fields) if len(detail["loc"]) == 1 else []
            message = f"{place} ({algorithm.name}): there is no setting {path!r}{nearest(path, known) if known else ''}"
            close = get_close_matches(path, known, n=1)
            fix = f"write {close[0]!r}" if close else "leave it out"
        faults.append(Fault("bad-setting", message, fix, (algorithm.name,)))
    return faults
