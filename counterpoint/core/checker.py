"""The checker: a list of methods, a loss and facts about the data become a plan, or every reason why not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from counterpoint.core.checks import check_members, without
from counterpoint.core.conversions import CONVERSIONS, Conversion
from counterpoint.core.effects import Contract
from counterpoint.core.errors import CompositionError
from counterpoint.core.events import Event
from counterpoint.core.facts import Facts
from counterpoint.core.faults import Fault, Terms
from counterpoint.core.kinds import Field, Kind, names
from counterpoint.core.loss import LossSpec
from counterpoint.core.member import Member, Resolver, enlist, named
from counterpoint.core.order import Edge, Order, Pair, Rank, arrange
from counterpoint.core.plan import Plan
from counterpoint.core.remedy import Drop, Set, State
from counterpoint.core.steps import BatchStep, HookStep
from counterpoint.core.wiring import batch_edges, disagreements, hook_edges, node_of

if TYPE_CHECKING:
    from counterpoint.core.compiled import Compiled

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
    compiled: Compiled | None = None,
    choice: str = "",
    faults: Sequence[Fault] = (),
) -> Plan:
    """Check that methods fit each other, the data and the loss, and order them.

    ``algorithms`` are instances, names, or mappings with ``name`` and settings; ``resolve`` turns a name into a class.
    ``compiled`` is what is to compile the plan's batches. ``choice`` is the name of the method that chooses among
    others, for fixes; ``faults`` are those already found by whoever calls.
    Raises ``CompositionError`` with every fault there is.
    """
    members, found = enlist(algorithms, resolve, facts.clock, terms)
    found = [*faults, *found, *check_members(members, named(algorithms), loss, facts, terms, choice)]
    start = {Field.INPUTS: facts.inputs, Field.TARGETS: facts.task.targets}
    nodes = _step_nodes(members)
    nodes = [*_conversions(nodes, loss, start), *nodes]
    found += _branch_faults(nodes)
    edges = batch_edges(nodes, start)
    order = arrange([node_of(node) for node in nodes], edges)
    found += _order_faults(nodes, edges, order, strict_order, terms)
    steps = _walk([nodes[position] for position in order.sequence], start, loss, facts, found, terms)
    hooks, pairs = _hooks(members, strict_order, found, terms)
    found += _unmet_wishes(members, terms)
    if found:
        raise CompositionError(found)
    return Plan(facts, tuple(members), tuple(steps), tuple(hooks), (*order.pairs, *pairs), loss, contract, compiled)


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


def _conversions(nodes: Sequence[BatchStep], loss: LossSpec | None, start: dict[Field, Kind]) -> Iterator[BatchStep]:
    for conversion in CONVERSIONS:
        part = conversion.source.field
        needs = [effect.edits[part].needs for node in nodes for effect in node.effects if part in effect.edits]
        if loss is not None and part is Field.TARGETS:
            needs.append(loss.accepts)
        wanted = any(conversion.source not in kinds and conversion.target in kinds for kinds in needs)
        if start[part] == conversion.source and wanted:
            yield BatchStep(conversion.name, conversion, (conversion.effect,))


def _branch_faults(nodes: Sequence[BatchStep]) -> Iterator[Fault]:
    for first, second in combinations(nodes, 2):
        verdicts = disagreements(first, second) if len(first.effects) + len(second.effects) > 2 else []
        if verdicts:
            choice, other = (first, second) if len(first.effects) > 1 else (second, first)
            reasons = "; ".join(sorted({f"{verdict.rule}: {verdict.reason}" for verdict in verdicts}))
            message = f"branches of {choice.name} would need to come on both sides of {other.name} ({reasons})"
            fix = f"split {choice.name} into choices whose branches stand on one side of {other.name}"
            remedy = Drop(choice.name)
            yield Fault("branch-order", message, fix, (choice.name, other.name), Event.BATCH, (remedy,))


def _order_faults(
    nodes: Sequence[BatchStep | HookStep], edges: Sequence[Edge], order: Order, strict_order: bool, terms: Terms
) -> Iterator[Fault]:
    for edge, between in dict.fromkeys(order.contradictions):  # a wish may be written on both sides
        earlier, later = nodes[edge.first].identity, nodes[edge.second].identity
        way = " → ".join(nodes[position].name for position in between) + _why(edges, between)
        if edge.rank is Rank.WISH:
            message = f"{edge.reason}, against what has to hold: {way}"
            wishes = [
                (node.work, key, name)
                for node, key, name in ((nodes[edge.first], "before", later), (nodes[edge.second], "after", earlier))
                if isinstance(node.work, Member) and name in getattr(node.work.algorithm, key)
            ]
            fix = "drop " + " and ".join(f"{terms.text(key, name)} of {who.identity}" for who, key, name in wishes)
            remedies = tuple(without(who, key, name) for who, key, name in wishes)
            yield Fault("wish-impossible", message, fix, (earlier, later), _event(nodes), remedies)
        else:
            message = f"{edge.reason}, so {earlier} must come before {later}, but also {way}"
            fix = f"leave out {earlier} or {later}"
            out = later if isinstance(nodes[edge.second].work, Member) else earlier
            yield Fault("cyclic-order", message, fix, (earlier, later), _event(nodes), (Drop(out),))
    for pair in order.pairs if strict_order else ():
        if pair.outcome == "as listed":
            message = f"only the list puts {pair.first} before {pair.second}: {pair.reason}"
            fix = f"state it: {terms.text('before', pair.second)} on {pair.first}"
            first, second = (next(node for node in nodes if node.name == name) for name in (pair.first, pair.second))
            assert isinstance(first.work, Member)
            wish = Set(first.identity, {"before": (*first.work.algorithm.before, second.identity)})
            yield Fault("ambiguous-order", message, fix, (pair.first, pair.second), _event(nodes), (wish,))


def _why(edges: Sequence[Edge], way: Sequence[int]) -> str:
    """Say in brackets why steps must stand in this order."""
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
    terms: Terms,
) -> list[BatchStep]:
    steps, kinds = [], dict(start)
    for node in nodes:
        before = dict(kinds)
        for effect in node.effects:
            for part, edit in effect.edits.items():
                if before[part] not in edit.needs:
                    found.append(_unmet(node, part, before[part], edit.needs, facts, terms))
                elif edit.gives is not None:
                    kinds[part] = edit.gives
        if isinstance(node.work, Conversion) and facts.num_classes is None:
            message = f"targets must become {node.work.target}, and the number of classes is not stated"
            found.append(Fault("classes-unstated", message, f"state {terms.setting('num_classes', '10')}", ()))
        steps.append(replace(node, before=before, after=dict(kinds)))
    if loss is not None and kinds[Field.TARGETS] not in loss.accepts:
        found.append(_unmet_loss(steps, loss, kinds[Field.TARGETS], terms))
    if not facts.model_takes(kinds[Field.INPUTS]):
        found.append(_unmet_model(steps, kinds[Field.INPUTS], facts, terms))
    return steps


def _unmet(node: BatchStep, part: Field, kind: Kind, needs: frozenset[Kind], facts: Facts, terms: Terms) -> Fault:
    message = f"{node.name} edits {part.value} of kind {names(needs)}, and gets {kind}"
    fix = f"leave {node.name} out"
    if part is Field.INPUTS and kind == facts.inputs:
        stated = f"state what the inputs are: {terms.text('inputs', sorted(needs)[0].name)}"
        fix += f", or {stated if terms is Terms.PYTHON else f'use data whose inputs are {names(needs)}'}"
    return Fault("needs-unmet", message, fix, (node.name,), Event.BATCH, (Drop(node.identity),))


def _unmet_loss(steps: Sequence[BatchStep], loss: LossSpec, kind: Kind, terms: Terms) -> Fault:
    editors = tuple(
        step.name
        for step in steps
        if isinstance(step.work, Member) and any(Field.TARGETS in effect.edits for effect in step.effects)
    )
    cause = f", because of {', '.join(editors)}" if editors else ""
    message = f"the loss {loss.name} accepts {names(loss.accepts)} targets, and would get {kind}{cause}"
    fix = f"use a loss that accepts {kind} targets"
    if terms is Terms.PYTHON:
        said = terms.setting("loss_accepts", terms.word({kind.name}))
        fix += f", or, if this one is right for them, say so in {said}"
    elif editors:
        fix += f", or leave {', '.join(editors)} out"
    return Fault("loss-targets", message, fix, (loss.name, *editors), Event.LOSS)


def _unmet_model(steps: Sequence[BatchStep], kind: Kind, facts: Facts, terms: Terms) -> Fault:
    givers = tuple(step.name for step in steps if step.before[Field.INPUTS] != step.after[Field.INPUTS])
    cause = f", because of {', '.join(givers)}" if givers else ""
    takes = "any but bytes" if facts.model_inputs is None else names(facts.model_inputs)
    message = f"the model takes inputs of kind {takes}, and would get {kind}{cause}"
    wanted = "floating inputs" if facts.model_inputs is None else f"{names(facts.model_inputs)} inputs"
    said = Terms.PYTHON.setting("model_inputs", Terms.PYTHON.word({kind.name}))
    where = f"give Trainer your model and {said}" if terms is Terms.YAML else f"state {said}"
    fix = f"list a method that makes {wanted} of them, or, if the model does take {kind}, {where}"
    state = State({"model_inputs": (kind,)})
    return Fault("model-inputs", message, fix, givers, Event.FORWARD, (state,))


def _hooks(
    members: Sequence[Member], strict_order: bool, found: list[Fault], terms: Terms
) -> tuple[list[HookStep], list[Pair]]:
    moments: dict[tuple[int, str], list[HookStep]] = defaultdict(list)
    events = list(Event)
    for member in members:
        for effect in member.declaration.hooks if not member.branches else ():
            moments[events.index(effect.event), effect.phase].append(HookStep(member.identity, member, effect))
    steps, pairs = [], []
    for _, nodes in sorted(moments.items()):
        edges = hook_edges(nodes)
        order = arrange([node_of(node) for node in nodes], edges)
        found += _order_faults(nodes, edges, order, strict_order, terms)
        steps += [nodes[position] for position in order.sequence]
        pairs += order.pairs
    return steps, pairs


def _unmet_wishes(members: Sequence[Member], terms: Terms) -> Iterator[Fault]:
    moments = {member.identity: _moments(member) for member in members}
    others = {member.identity: member for member in members}
    for member in members:
        for key, wished in (("after", member.algorithm.after), ("before", member.algorithm.before)):
            for name in wished:
                if name in moments and name != member.identity and not _meet(member, others[name], moments):
                    message = f"{member.identity} asks to come {key} {name}, and the two never act at the same moment"
                    fix = f"drop {terms.text(key, name)}: there is nothing to order"
                    remedy = without(member, key, name)
                    yield Fault("wish-impossible", message, fix, (member.identity, name), remedies=(remedy,))


def _meet(first: Member, second: Member, moments: Mapping[str, set[tuple[Event, str]]]) -> bool:
    """Whether two members ever act at one moment; outside of batches no schedule keeps them apart."""
    shared = moments[first.identity] & moments[second.identity]
    together = first.schedule.meets(second.schedule)
    return any(together or not event.in_batch for event, _ in shared)


def _moments(member: Member) -> set[tuple[Event, str]]:
    hooks = {(effect.event, effect.phase.value) for effect in member.declaration.hooks}
    edits = any(leaf.declaration.transforms for leaf in member.leaves)
    return hooks | ({(Event.BATCH, "edit")} if edits else set())
