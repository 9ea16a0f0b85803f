"""The order of steps and its reasons: the edges between the steps of one batch and between the hooks of one moment."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations

from counterpoint.core.check.commutation import AS_LISTED, Verdict, commute, convention, hooks_commute
from counterpoint.core.check.order import Edge, Node, Rank
from counterpoint.core.declare.kinds import Field, Kind, names
from counterpoint.core.plan.steps import BatchStep, HookStep

__all__ = ["batch_edges", "disagreements", "hook_edges", "node_of"]


def node_of(step: BatchStep | HookStep) -> Node:
    """Return the step with its canonical key: what it does first, its name only to break ties."""
    if isinstance(step, HookStep):
        return Node(step.name, (repr(sorted(step.effect.writes)), repr(sorted(step.effect.reads)), step.name))
    resizes = any(effect.resizes for effect in step.effects)
    across = any(effect.across_samples for effect in step.effects)
    fills = any(effect.fills for effect in step.effects)
    levels = "".join(str(int(level)) for level in (step.final, not step.inserted, not resizes, across, fills))
    described = "&".join(sorted(effect.signature for effect in step.effects))
    return Node(step.name, (levels, described, step.name), listed=not step.inserted)


def batch_edges(steps: Sequence[BatchStep], start: dict[Field, Kind]) -> list[Edge]:
    """Return the edges between the steps of a batch, whose fields start out as ``start`` says."""
    edges = [*_needs(steps, start), *_wishes(steps)]
    settled = {frozenset((edge.first, edge.second)) for edge in edges}
    alike = _numbered([(_signatures(step), step.schedule, step.inserted) for step in steps])
    verdicts: dict[tuple[int, int], Verdict | None] = {}
    for i, j in combinations(range(len(steps)), 2):
        pair = alike[i], alike[j]
        if pair not in verdicts:
            verdicts[pair] = judge(steps[i], steps[j])
        verdict = verdicts[pair]
        if verdict is not None and frozenset((i, j)) not in settled:
            edges.append(_judged(i, j, verdict))
    return edges


def hook_edges(hooks: Sequence[HookStep]) -> list[Edge]:
    """Return the edges between hooks of one moment."""
    edges = list(_wishes(hooks))
    settled = {frozenset((edge.first, edge.second)) for edge in edges}
    for i, j in combinations(range(len(hooks)), 2):
        free = frozenset((i, j)) not in settled and _meet(hooks[i], hooks[j])
        if free and not hooks_commute(hooks[i].effect, hooks[j].effect):
            edges.append(_judged(i, j, AS_LISTED))
    return edges


def _meet(first: HookStep, second: HookStep) -> bool:
    """Whether two hooks of one moment may both act there: outside of batches no schedule keeps them apart."""
    return not first.effect.event.in_batch or first.work.schedule.meets(second.work.schedule)


def _signatures(step: BatchStep) -> tuple[str, ...]:
    return tuple(effect.signature for effect in step.effects)


def _numbered(things: Sequence[Hashable]) -> list[int]:
    """Return a number for each thing, equal for equal things."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(thing, len(numbers)) for thing in things]


def _judged(i: int, j: int, verdict: Verdict) -> Edge:
    first, second = (j, i) if verdict.sign > 0 else (i, j)
    rank = Rank.CONVENTION if verdict.sign else Rank.LISTED
    return Edge(first, second, rank, verdict.rule, verdict.reason)


def judge(first: BatchStep, second: BatchStep) -> Verdict | None:
    """Return the verdict on two steps by declared properties alone; ``None`` if they commute.

    Of a choice each branch is judged; one that a rule orders speaks for the branches that the list would decide.
    """
    verdicts = _verdicts(first, second)
    ruled = [verdict for verdict in verdicts if verdict.sign]
    return ruled[0] if ruled else next(iter(verdicts), None)


def disagreements(first: BatchStep, second: BatchStep) -> list[Verdict]:
    """Return verdicts on branches of a choice that demand both orders; empty if they agree."""
    ruled = [verdict for verdict in _verdicts(first, second) if verdict.sign]
    return ruled if len({verdict.sign for verdict in ruled}) > 1 else []


def _verdicts(first: BatchStep, second: BatchStep) -> list[Verdict]:
    # A conversion changes the form of a field and not what it says: only who needs which kind orders it.
    if first.inserted or second.inserted:
        return []
    if not first.schedule.meets(second.schedule):
        return []
    return [convention(mine, other) for mine in first.effects for other in second.effects if not commute(mine, other)]


def _wishes(steps: Sequence[BatchStep | HookStep]) -> Iterator[Edge]:
    places: dict[str, list[int]] = {}
    for position, step in enumerate(steps):
        places.setdefault(step.identity, []).append(position)
    for position, step in enumerate(steps):
        for name in step.work.algorithm.before:
            yield from (_wished(steps, position, other) for other in places.get(name, ()))
        for name in step.work.algorithm.after:
            yield from (_wished(steps, other, position) for other in places.get(name, ()))


def _wished(steps: Sequence[BatchStep | HookStep], first: int, second: int) -> Edge:
    reason = f"the user asked for {steps[first].identity} before {steps[second].identity}"
    return Edge(first, second, Rank.WISH, "wish", reason)


def _needs(steps: Sequence[BatchStep], start: dict[Field, Kind]) -> Iterator[Edge]:
    for part, kind in start.items():
        yield from _kind_edges(steps, part, kind)
        yield from _final_edges(steps, part)
        for first, step in enumerate(steps):
            if any(effect.unedited and part in effect.reads | effect.edits.keys() for effect in step.effects):
                for second, other in enumerate(steps):
                    if second != first and not other.inserted and _edits(other, part):
                        yield Edge(first, second, Rank.NEEDS, "unedited", f"{step.name} must see unedited {part.value}")


def _final_edges(steps: Sequence[BatchStep], part: Field) -> Iterator[Edge]:
    """Put steps that could edit a field on both sides of a final conversion before it."""
    for last, step in enumerate(steps):
        if step.final and _edits(step, part):
            (made,) = (effect.edits[part] for effect in step.effects)
            for first, other in enumerate(steps):
                edits = [effect.edits[part] for effect in other.effects if part in effect.edits]
                if any({*made.needs, made.gives} <= edit.needs for edit in edits):
                    reason = f"the loss alone needs {made.gives} {part.value}, so {step.name} comes last"
                    yield Edge(first, last, Rank.NEEDS, "needs-and-gives", reason)


def _edits(step: BatchStep, part: Field) -> bool:
    return any(part in effect.edits for effect in step.effects)


def _kind_edges(steps: Sequence[BatchStep], part: Field, start: Kind) -> Iterator[Edge]:
    giving = [
        (position, effect.edits[part].needs, effect.edits[part].gives)
        for position, step in enumerate(steps)
        for effect in step.effects
        if part in effect.edits
    ]
    for giver, takes, gives in giving:
        if gives is None:
            continue
        available = takes & {start, *(kind for other, _, kind in giving if kind is not None and other != giver)}
        for position, step in enumerate(steps):
            if position == giver:
                continue
            for effect in step.effects:
                if part in effect.edits:
                    needs = effect.edits[part].needs
                    late, early = gives in needs, bool(available & needs)
                    if late and not early:
                        reason = f"{step.name} needs {names(needs)} {part.value}, which {steps[giver].name} gives"
                        yield Edge(giver, position, Rank.NEEDS, "needs-and-gives", reason)
                    elif early and not late:
                        reason = f"{step.name} needs {names(needs & available)} {part.value}, not {gives}"
                        yield Edge(position, giver, Rank.NEEDS, "needs-and-gives", reason)
