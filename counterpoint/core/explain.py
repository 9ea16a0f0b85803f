"""A plan in words: its steps by event, the kinds between them, and who decided the order."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import combinations

from counterpoint.core.conversions import Conversion
from counterpoint.core.effects import HookEffect, Phase
from counterpoint.core.events import Event
from counterpoint.core.kinds import Field, names
from counterpoint.core.plan import Plan
from counterpoint.core.steps import BatchStep
from counterpoint.core.wiring import batch_edges

__all__ = ["explain"]

WIDTH = 80
_ROW = "  {:<32} {:<20} {}"


def explain(plan: Plan, *, pairs: bool = False) -> str:
    """Return the plan as text, at most 80 columns wide; ``pairs`` adds the rule and reason for every pair of steps."""
    order = _every_pair(plan) if pairs else _pairs(plan)
    return "\n".join([*_facts(plan), "", *_steps(plan), *_hooks(plan), *_owners(plan), *_draws(plan), *order])


def _facts(plan: Plan) -> Iterator[str]:
    facts = plan.facts
    stated = [facts.task.name]
    stated += [f"{facts.num_classes} classes"] if facts.num_classes is not None else []
    stated += [f"{facts.inputs} inputs", f"seed {facts.seed}"]
    yield f"plan {plan.fingerprint}: {', '.join(stated)}"
    if plan.loss_spec is not None:
        yield from _wrap(f"loss {plan.loss_spec.name}, which accepts {names(plan.loss_spec.accepts)} targets")


def _steps(plan: Plan) -> Iterator[str]:
    yield _ROW.format("each batch", "inputs", "targets").replace("  ", "", 1)
    yield _ROW.format("(as given)", plan.facts.inputs.name, plan.facts.task.targets.name).rstrip()
    for step in plan.steps:
        yield _row(_title(step), _kinds(step, Field.INPUTS), _kinds(step, Field.TARGETS))
    last = plan.steps[-1].after if plan.steps else {}
    kinds = {Field.INPUTS: plan.facts.inputs, Field.TARGETS: plan.facts.task.targets, **last}
    yield _row("→ model and loss", kinds[Field.INPUTS].name, kinds[Field.TARGETS].name)


def _row(title: str, inputs: str, targets: str) -> str:
    lines = textwrap.wrap(title, 32, subsequent_indent="  ")
    return "\n".join([_ROW.format(lines[0], inputs, targets).rstrip(), *("  " + line for line in lines[1:])])


def _title(step: BatchStep) -> str:
    if isinstance(step.work, Conversion):
        return f"+ {step.name} (inserted)"
    parts = [str(step.work.schedule)] if str(step.work.schedule) else []
    if step.work.branches:
        shares = [weight / sum(step.work.weights) for weight in step.work.weights]
        parts += [
            f"{share:.0%} {branch.algorithm.identity}" for branch, share in zip(step.work.branches, shares, strict=True)
        ]
    return f"{step.name} ({', '.join(parts)})" if parts else step.name


def _kinds(step: BatchStep, part: Field) -> str:
    if not any(part in effect.edits for effect in step.effects):
        return ""
    before, after = step.before[part].name, step.after[part].name
    return f"{before} → {after}" if before != after else f"edits {before}"


def _hooks(plan: Plan) -> Iterator[str]:
    for event in Event:
        hooks = [hook for hook in plan.hooks if hook.effect.event is event]
        if hooks:
            yield f"{'each ' if event not in (Event.SETUP, Event.FIT) else ''}{event.value}"
        for hook in hooks:
            yield from _wrap(f"  {_phase(hook.effect.phase)} {hook.name}: {_touches(hook.effect)}")


def _phase(phase: Phase) -> str:
    return "in its place" if phase is Phase.REPLACE else phase.value


def _touches(effect: HookEffect) -> str:
    parts = []
    for verb, touched in (("reads", effect.reads), ("edits", effect.writes), ("restores", effect.restores)):
        if touched:
            parts.append(f"{verb} {', '.join(sorted(part.value for part in touched))}")
    return "; ".join(parts)


def _pairs(plan: Plan) -> Iterator[str]:
    if plan.pairs:
        yield "order"
    for pair in plan.pairs:
        yield from _wrap(f"  {pair.first} before {pair.second}: {pair.outcome} ({pair.rule}): {pair.reason}")


def _every_pair(plan: Plan) -> Iterator[str]:
    steps = plan.steps
    decided = {(pair.first, pair.second): pair for pair in plan.pairs}
    start = {Field.INPUTS: plan.facts.inputs, Field.TARGETS: plan.facts.task.targets}
    edges = {frozenset((edge.first, edge.second)): edge for edge in reversed(batch_edges(steps, start))}
    yield "order of every pair"
    for i, j in combinations(range(len(steps)), 2):
        edge, pair = edges.get(frozenset((i, j))), decided.get((steps[i].name, steps[j].name))
        rule, reason = (
            (edge.rule, edge.reason) if edge else ("commuting", "they commute, and one order serves every list")
        )
        outcome = f"{pair.outcome}, " if pair else ""
        yield from _wrap(f"  {steps[i].name} before {steps[j].name}: {outcome}{rule}: {reason}")


def _owners(plan: Plan) -> Iterator[str]:
    """Say who smooths, who mixes, and who owns what else, the loss included."""
    claims = [(member.identity, claim) for member in plan.members for claim in member.claims]
    if plan.loss_spec is not None:
        claims += [(f"the loss {plan.loss_spec.name}", claim) for claim in plan.loss_spec.claims]
    if claims:
        yield "owns"
    for slot in dict.fromkeys(claim.slot.name for _, claim in claims):
        owners = [
            owner if claim.amount is None else f"{owner} ({claim.amount:g})"
            for owner, claim in claims
            if claim.slot.name == slot
        ]
        yield from _wrap(f"  {slot}: {', '.join(owners)}")


def _draws(plan: Plan) -> Iterator[str]:
    leaves = [leaf for member in plan.members for leaf in member.leaves]
    random = [member for member in (*plan.members, *leaves) if member.random]
    alike = list(dict.fromkeys(member.identity for member in random if member.rank_free))
    apart = list(dict.fromkeys(member.identity for member in random if not member.rank_free))
    if random:
        yield "draws"
    if apart:
        yield from _wrap(f"  each rank its own: {', '.join(apart)}")
    if alike:
        yield from _wrap(f"  the same on every rank: {', '.join(alike)}")


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="      ", replace_whitespace=False, drop_whitespace=True)
