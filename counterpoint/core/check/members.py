"""From the user's list to members: algorithms with a name within the composition and a schedule in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pydantic

from counterpoint.core.arguments import written
from counterpoint.core.check.fixes.changes import free_name, identity_of
from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.check.settings import allowed_value
from counterpoint.core.declare.algorithm import Algorithm, build
from counterpoint.core.errors import PluginError, UnknownNameError, close_to, nearest
from counterpoint.core.faults import Fault
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.schedule import Clock, Schedule
from counterpoint.core.remedies import Decide, Remove, Replace, Set, State, Way

__all__ = ["Resolver", "enlist", "explain_settings", "lengths", "named"]

Resolver = Callable[[str], type[Algorithm[Any]]]
Enlisted = tuple[list[Member], list[Fault]]

OTHER_NAME = "write one of the registered names; `counterpoint list` shows them"
FIX_PACKAGE = "fix, upgrade or uninstall the package; `counterpoint list --check` shows each that is broken"


def enlist(
    given: Sequence[object], resolve: Resolver, clock: Clock, known: Callable[[], Sequence[str]], terms: Terms
) -> Enlisted:
    """Make members of the list that a user gave; every fault is found, and faulty items are left out.

    ``known`` returns the names of all methods, for a name that is none of them.
    """
    members: list[Member] = []
    identities: list[str] = []
    faults: list[Fault] = []
    for position, item in enumerate(given):
        try:
            algorithm = build(item, resolve)
        except (PluginError, pydantic.ValidationError, ValueError) as error:
            faults += _unbuilt(item, position, error, resolve, known, terms)
            continue
        identities.append(algorithm.identity)
        members += _member(algorithm, algorithm.identity, clock, faults)
    faults += _duplicates(identities, members, named(given))
    return members, faults


def named(given: Sequence[object]) -> frozenset[str]:
    """Return the names by which the items of a list go, also of those that cannot be made.

    >>> sorted(named(["mixup", {"name": "cutout", "id": "holes", "length": 7}, None]))
    ['holes', 'mixup']
    """
    return frozenset(name for name in map(identity_of, given) if name is not None)


def _member(algorithm: Algorithm[Any], identity: str, clock: Clock, faults: list[Fault]) -> Iterator[Member]:
    schedule = _schedule(algorithm, identity, clock, faults)
    branches: list[Member] = []
    alternatives = algorithm.alternatives()
    for branch, _ in alternatives:
        branches += _member(branch, f"{identity}.{branch.identity}", clock, faults)
    if schedule is not None and len(branches) == len(alternatives):
        weights = tuple(weight for _, weight in alternatives)
        yield Member(algorithm, identity, schedule, algorithm.declared(), tuple(branches), weights)


def _schedule(algorithm: Algorithm[Any], identity: str, clock: Clock, faults: list[Fault]) -> Schedule | None:
    try:
        start = clock.batches(algorithm.start)
        end = None if algorithm.end is None else clock.batches(algorithm.end)
    except LookupError as unknown:
        fact = str(unknown.args[0])
        unit = "epochs" if fact == "steps_per_epoch" else "shares of the run"
        message = f"{identity} counts its start or end in {unit}"
        message = f"{message}, and {fact} is not stated"
        faults.append(Fault("duration-unknown", message, algorithms=(identity,), ways=lengths(fact, clock)))
        return None
    if end is not None and end <= start:
        message = f"{identity} would end at batch {end}, before or when it starts at batch {start}: it would never act"
        ways: tuple[Way, ...] = ((Set(identity, {"end": f"{start + 1}ba"}),), (Set(identity, {"end": None}),))
        faults.append(Fault("empty-window", message, algorithms=(identity,), ways=ways))
        return None
    return Schedule(start, end, algorithm.every, algorithm.p)


def lengths(fact: str, clock: Clock) -> tuple[Way, ...]:
    """Return lengths that may be stated of an epoch or of the run, whichever ``fact`` names."""
    if fact == "steps_per_epoch":
        return tuple((State({fact: count}),) for count in (100, 1000, 10, 1))
    unit, counts = ("ba", (1000, 100_000)) if clock.steps_per_epoch is None else ("ep", (10, 1000))
    return tuple((State({"max_duration": f"{count}{unit}"}),) for count in counts)


def _duplicates(identities: Sequence[str], members: Sequence[Member], taken: Collection[str]) -> Iterator[Fault]:
    names = {*taken}
    for identity in dict.fromkeys(identities):
        count = identities.count(identity)
        if count > 1:
            message = (
                f"{count} methods of the list go by the name {identity!r}, so neither draws nor orders tell them apart"
            )
            ways = (_renamed(identity, identity, count - 1, names),)
            yield Fault("duplicate-id", message, algorithms=(identity,), ways=ways)
    for member in members:
        yield from _same_branches(member)


def _same_branches(member: Member) -> Iterator[Fault]:
    inner = [branch.algorithm.identity for branch in member.branches]
    for identity in sorted({name for name in inner if inner.count(name) > 1}):
        message = f"{member.identity} has {inner.count(identity)} branches that go by the name {identity!r}"
        path = f"{member.identity}.{identity}"
        ways = (_renamed(path, identity, inner.count(identity) - 1, {*inner}),)
        yield Fault("duplicate-id", message, algorithms=(member.identity,), ways=ways)
    for branch in member.branches:
        yield from _same_branches(branch)


def _renamed(path: str, identity: str, count: int, taken: set[str]) -> Way:
    """Return the change that gives the last ones of a name an id each; ``taken`` grows by these."""
    ids = []
    for _ in range(count):
        ids.append(free_name(identity, taken))
        taken.add(ids[-1])
    return tuple(Set(path, {"id": name}) for name in ids)


def _unbuilt(
    item: object, position: int, error: Exception, resolve: Resolver, known: Callable[[], Sequence[str]], terms: Terms
) -> list[Fault]:
    place = terms.place("algorithms", position)
    given = item.get("name") if isinstance(item, Mapping) else item
    name = given if isinstance(given, str) else ""
    out: Way = (Remove(position),)
    if isinstance(error, pydantic.ValidationError):
        return explain_settings(error, resolve(name), item, position, terms)
    if isinstance(error, UnknownNameError):
        meant = close_to(name, known()) if _is_tree(item) else []
        renamed = [(Replace(position, _mapping(item) | {"name": close}),) for close in meant]
        ways = (*renamed, out, (Decide(OTHER_NAME),))
        return [Fault("unknown-algorithm", f"{place}: {error}", algorithms=(name,), ways=ways)]
    if isinstance(error, PluginError):
        return [Fault("broken-plugin", f"{place}: {error}", algorithms=(name,), ways=(out, (Decide(FIX_PACKAGE),)))]
    ways = (out, (Decide("write the name of a method, or a mapping with its name"),))
    return [Fault("not-an-algorithm", f"{place}: {error}", ways=ways)]


def _is_tree(item: object) -> bool:
    """Whether an item can be written down: one that holds itself cannot."""
    try:
        json.dumps(item, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        return False
    return True


def _mapping(item: object) -> dict[str, Any]:
    return dict(item) if isinstance(item, Mapping) else {"name": item}


def explain_settings(
    error: pydantic.ValidationError, algorithm: type[Algorithm[Any]], item: object, position: int, terms: Terms
) -> list[Fault]:
    """Turn pydantic's errors about the settings of one algorithm into faults, one for each setting.

    The algorithm is ``item``, at ``position`` of the list.
    """
    faults = []
    place = terms.place("algorithms", position)
    tree = _mapping(item) if _is_tree(item) else {}
    details = error.errors()
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    for detail in details:
        loc = detail["loc"]
        if loc in inner:  # a list is wrong, too, where one of its items is
            continue
        path = terms.place(*loc) or "its settings"
        message = f"{place} ({algorithm.name}): {path} is {written(detail['input'])}: {detail['msg']}"
        shown = f"`counterpoint show {algorithm.name}` lists the settings"
        allowed = Decide(f"{allowed_value(algorithm, loc, path)}; {shown}")
        ways: list[Way] = [(Replace(position, changed),) for changed in _without_key(tree, loc)]
        if detail["type"] == "extra_forbidden":
            known = list(algorithm.model_fields) if len(loc) == 1 else []
            message = f"{place} ({algorithm.name}): there is no setting {path!r}{nearest(path, known) if known else ''}"
            renamed = [_mapping(item) | {close: detail["input"]} for close in close_to(path, known) if tree]
            ways = [*((Replace(position, _less(new, path)),) for new in renamed), *ways, (Remove(position),)]
        else:
            if detail["type"] == "missing":
                message = f"{place} ({algorithm.name}): {path} is missing"
            ways += [(Remove(position),), (allowed,)]
        faults.append(Fault("bad-setting", message, algorithms=(algorithm.name,), ways=tuple(ways)))
    return faults


def _less(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {other: value for other, value in mapping.items() if other != key}


def _without_key(item: Mapping[str, Any], loc: Sequence[int | str]) -> Iterator[dict[str, Any]]:
    """Yield an item without the setting at a place, if the place leads to a setting of it or of a branch of it."""
    if not loc or loc[0] not in item:
        return
    key = str(loc[0])
    if len(loc) == 1:
        yield _less(item, key)
    elif len(loc) > 2 and isinstance(item[key], list | tuple) and isinstance(loc[1], int):
        branches = list(item[key])
        if loc[1] < len(branches) and isinstance(branches[loc[1]], Mapping):
            for inner in _without_key(branches[loc[1]], loc[2:]):
                yield {**item, key: [*branches[: loc[1]], inner, *branches[loc[1] + 1 :]]}
