"""The checker: turns a list of methods, a loss and facts about the data into a plan, or reports every fault."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from counterpoint.core.check.catalog import Catalog
from counterpoint.core.check.constraints import batch_edges, disagreements, hook_edges, node_of
from counterpoint.core.check.conversions import route
from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.check.fixes.wording import as_listed
from counterpoint.core.check.members import Resolver, enlist, named
from counterpoint.core.check.needs import unmet, unmet_loss, unmet_model
from counterpoint.core.check.order import Edge, Order, Rank, arrange
from counterpoint.core.check.rules import check_members
from counterpoint.core.declare.effects import Contract
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import Field, Kind, Task
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.errors import CompositionError
from counterpoint.core.faults import Fault
from counterpoint.core.plan.data import PlanData
from counterpoint.core.plan.decisions import Decision, Pair
from counterpoint.core.plan.facts import Facts
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.schedule import Schedule
from counterpoint.core.plan.steps import BatchStep, HookStep
from counterpoint.core.remedies import Drop, DropWish, Set, State, Way

__all__ = ["compose"]


def compose(
    algorithms: Sequence[object],
    *,
    resolve: Resolver,
    facts: Facts,
    loss: LossSpec | None = None,
    strict_order: bool = False,
    terms: Terms = Terms.PYTHON,
    contract: Contract = Contract.FIRST_STEPS,
    catalog: Catalog | None = None,
    faults: Sequence[Fault] = (),
) -> PlanData:
    """Check that methods fit each other, the data and the loss, and order them.

    ``algorithms`` are instances, names, or mappings with ``name`` and settings; ``resolve`` turns a name into a class.
    ``catalog`` is what is registered, for fixes; ``faults`` are those already found by the caller. Raises
    ``CompositionError`` with every fault there is.
    """
    known = Catalog() if catalog is None else catalog
    members, found = enlist(algorithms, resolve, facts.clock, known.names, terms)
    found = [*faults, *found, *check_members(members, named(algorithms), loss, facts, known)]
    start = {Field.INPUTS: facts.inputs, Field.TARGETS: facts.task.targets}
    nodes = _step_nodes(members)
    nodes = [*_conversions(nodes, loss, start, facts.task), *nodes]
    found += _branch_faults(nodes)
    edges = batch_edges(nodes, start)
    order = arrange([node_of(node) for node in nodes], edges)
    found += _order_faults(nodes, edges, order, strict_order)
    steps = _walk([nodes[position] for position in order.sequence], start, loss, facts, found, known)
    hooks, pairs, decisions = _hooks(members, strict_order, found)
    found += _unmet_wishes(members)
    if found:
        raise CompositionError(as_listed(fault, algorithms, terms) for fault in found)
    decided = (*_decisions(nodes, edges, ()), *decisions)
    pairs = [*order.pairs, *pairs]
    return PlanData(facts, tuple(members), tuple(steps), tuple(hooks), tuple(pairs), decided, loss, contract)


def _step_nodes(members: Sequence[Member]) -> list[BatchStep]:
    nodes = []
    for member in members:
        if member.branches:
            effects = tuple(effect for leaf in member.leaves for effect in leaf.declaration.transforms)
            nodes.append(BatchStep(member.identity, member, effects))
            continue
        several = len(member.declaration.transforms) > 1
        for effect in member.declaration.transforms:
            name = f"{member.identity}.{effect.method}" if several else member.identity
            nodes.append(BatchStep(name, member, (effect,), effect.method))
    return nodes


def _conversions(
    nodes: Sequence[BatchStep], loss: LossSpec | None, start: dict[Field, Kind], task: Task
) -> Iterator[BatchStep]:
    for part, kind in start.items():
        edits = [effect.edits[part] for node in nodes for effect in node.effects if part in effect.edits]
        gives = {edit.gives for edit in edits if edit.gives is not None}
        accepts = loss.accepts if loss is not None and part is Field.TARGETS else frozenset[Kind]()
        for conversion in route(task, [edit.needs for edit in edits], gives, accepts, kind):
            method = conversion.build(-100 if loss is None else loss.ignore_index)
            member = Member(method, method.name, Schedule(), method.declared())
            effects = member.declaration.transforms
            yield BatchStep(method.name, member, effects, effects[0].method, inserted=True, final=conversion.final)


def _branch_faults(nodes: Sequence[BatchStep]) -> Iterator[Fault]:
    for first, second in combinations(nodes, 2):
        verdicts = disagreements(first, second) if len(first.effects) + len(second.effects) > 2 else []
        if verdicts:
            choice, other = (first, second) if len(first.effects) > 1 else (second, first)
            reasons = "; ".join(sorted({f"{verdict.rule}: {verdict.reason}" for verdict in verdicts}))
            message = f"branches of {choice.name} would need to come on both sides of {other.name} ({reasons})"
            ways = (*((Drop(branch.identity),) for branch in choice.work.leaves), (Drop(choice.name),))
            parties = (choice.name, other.name)
            yield Fault("branch-order", message, algorithms=parties, event=Event.BATCH, ways=ways)


def _order_faults(
    nodes: Sequence[BatchStep | HookStep], edges: Sequence[Edge], order: Order, strict_order: bool
) -> Iterator[Fault]:
    for edge, between in dict.fromkeys(order.contradictions):  # a wish may be written on both sides
        earlier, later = nodes[edge.first].identity, nodes[edge.second].identity
        way = " → ".join(nodes[position].name for position in between) + _why(edges, between)
        listed = [nodes[place] for place in (edge.second, edge.first) if not nodes[place].inserted]
        ways: tuple[Way, ...] = tuple((Drop(node.identity),) for node in listed)
        if edge.rank is Rank.WISH:
            message = f"{edge.reason}, against what has to hold: {way}"
            wishes = [
                DropWish(node.identity, key, name)
                for node, key, name in ((nodes[edge.first], "before", later), (nodes[edge.second], "after", earlier))
                if name in getattr(node.work.algorithm, key)
            ]
            ways = (tuple(wishes),)
        else:
            message = f"{edge.reason}, so {earlier} must come before {later}, but also {way}"
        code = "wish-impossible" if edge.rank is Rank.WISH else "cyclic-order"
        yield Fault(code, message, algorithms=(earlier, later), event=_event(nodes), ways=ways)
    for pair in order.pairs if strict_order else ():
        if pair.outcome == "as listed":
            message = f"only the list puts {pair.first} before {pair.second}: {pair.reason}"
            first, second = (next(node for node in nodes if node.name == name) for name in (pair.first, pair.second))
            wish = Set(first.identity, {"before": (*first.work.algorithm.before, second.identity)})
            ways = ((wish,), (State({"strict_order": False}),))
            parties = (pair.first, pair.second)
            yield Fault("ambiguous-order", message, algorithms=parties, event=_event(nodes), ways=ways)


def _why(edges: Sequence[Edge], way: Sequence[int]) -> str:
    """Return the reason for the order of steps, in brackets."""
    places = {position: place for place, position in enumerate(way)}
    strong = [edge for edge in edges if edge.rank <= Rank.WISH and {edge.first, edge.second} <= places.keys()]
    reasons = dict.fromkeys(edge.reason for edge in strong if places[edge.first] < places[edge.second])
    return f" ({'; '.join(reasons)})" if reasons else ""


def _event(steps: Sequence[BatchStep | HookStep]) -> Event:
    first = steps[0]
    return first.effect.event if isinstance(first, HookStep) else Event.BATCH


def _walk(
    nodes: Sequence[BatchStep],
    start: dict[Field, Kind],
    loss: LossSpec | None,
    facts: Facts,
    found: list[Fault],
    catalog: Catalog,
) -> list[BatchStep]:
    steps, kinds = [], dict(start)
    for node in nodes:
        before = dict(kinds)
        for effect in node.effects:
            for part, edit in effect.edits.items():
                if before[part] not in edit.needs:
                    found.append(unmet(node, part, before[part], edit.needs, facts, catalog))
                elif edit.gives is not None:
                    kinds[part] = edit.gives
        if node.inserted and not node.final and facts.num_classes is None:
            message = f"targets must become {kinds[Field.TARGETS]}, and the number of classes is not stated"
            elsewhere = "use data that state their number of classes"
            count = loss.classes if loss is not None and loss.classes is not None else 10
            found.append(Fault("classes-unstated", message, ways=((State({"num_classes": count}, elsewhere),),)))
        steps.append(replace(node, before=before, after=dict(kinds)))
    if loss is not None and kinds[Field.TARGETS] not in loss.accepts:
        found.append(unmet_loss(steps, loss, kinds[Field.TARGETS], facts, catalog))
    if not facts.model_takes(kinds[Field.INPUTS]):
        found.append(unmet_model(steps, kinds[Field.INPUTS], facts, catalog))
    return steps


def _decisions(
    nodes: Sequence[BatchStep | HookStep], edges: Sequence[Edge], moment: tuple[str, ...]
) -> Iterator[Decision]:
    """Yield the first, and so the strongest, reason for the order of each two."""
    strongest = {frozenset((edge.first, edge.second)): edge for edge in reversed(edges)}
    for pair, edge in strongest.items():
        names = frozenset(nodes[position].name for position in pair)
        yield Decision(moment, names, edge.rule, edge.reason, edge.rank is Rank.LISTED)


def _hooks(
    members: Sequence[Member], strict_order: bool, found: list[Fault]
) -> tuple[list[HookStep], list[Pair], list[Decision]]:
    moments: dict[tuple[int, str], list[HookStep]] = defaultdict(list)
    events = list(Event)
    for member in members:
        for effect in member.declaration.hooks if not member.branches else ():
            moments[events.index(effect.event), effect.phase].append(HookStep(member.identity, member, effect))
    steps: list[HookStep] = []
    pairs: list[Pair] = []
    decisions: list[Decision] = []
    for (place, phase), nodes in sorted(moments.items()):
        edges = hook_edges(nodes)
        order = arrange([node_of(node) for node in nodes], edges)
        found += _order_faults(nodes, edges, order, strict_order)
        steps += [nodes[position] for position in order.sequence]
        pairs += order.pairs
        decisions += _decisions(nodes, edges, (events[place], phase))
    return steps, pairs, decisions


def _unmet_wishes(members: Sequence[Member]) -> Iterator[Fault]:
    moments = {member.identity: _moments(member) for member in members}
    others = {member.identity: member for member in members}
    for member in members:
        for key, wished in (("after", member.algorithm.after), ("before", member.algorithm.before)):
            for name in wished:
                if name in moments and name != member.identity and not _meet(member, others[name], moments):
                    message = f"{member.identity} asks to come {key} {name}, and the two never act at the same moment"
                    ways = ((DropWish(member.identity, key, name),),)
                    yield Fault("wish-impossible", message, algorithms=(member.identity, name), ways=ways)


def _meet(first: Member, second: Member, moments: Mapping[str, set[tuple[Event, str]]]) -> bool:
    """Whether two members ever act at one moment; outside of batches no schedule keeps them apart."""
    shared = moments[first.identity] & moments[second.identity]
    together = first.schedule.meets(second.schedule)
    return any(together or not event.in_batch for event, _ in shared)


def _moments(member: Member) -> set[tuple[Event, str]]:
    hooks = {(effect.event, effect.phase.value) for effect in member.declaration.hooks}
    edits = any(leaf.declaration.transforms for leaf in member.leaves)
    return hooks | ({(Event.BATCH, "edit")} if edits else set())
