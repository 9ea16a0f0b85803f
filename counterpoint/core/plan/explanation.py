"""A plan in words: its steps by event, the kinds between them, and the reasons for the order."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, product

from counterpoint.core.declare.effects import HookEffect, Phase
from counterpoint.core.declare.events import PASSES, Event
from counterpoint.core.declare.kinds import MIXING, SMOOTHING, Claim, Field, names
from counterpoint.core.plan.data import PlanData
from counterpoint.core.plan.serialization import fingerprint
from counterpoint.core.plan.steps import BatchStep, HookStep

__all__ = ["explain"]

WIDTH = 80
_ROW = "  {:<32} {:<20} {}"
PHASES = (Phase.BEFORE, Phase.AROUND, Phase.REPLACE, Phase.AFTER)
"""The phases of a span as they come."""
COMMUTE = "they commute, and one order serves every list"


def explain(plan: PlanData, *, pairs: bool = False) -> str:
    """Return the plan as text, at most 80 columns wide; ``pairs`` adds the rule and reason for every pair of steps."""
    order = _every_pair(plan) if pairs else _pairs(plan)
    parts = (_steps(plan), _hooks(plan), _microbatches(plan), _at_the_loss(plan), _owners(plan), _draws(plan), order)
    return "\n".join([*_facts(plan), "", *chain.from_iterable(parts)])


def _facts(plan: PlanData) -> Iterator[str]:
    facts = plan.facts
    stated = [facts.task.name]
    stated += [f"{facts.num_classes} classes"] if facts.num_classes is not None else []
    stated += [f"{facts.inputs} inputs", f"seed {facts.seed}"]
    yield from _wrap(f"plan {fingerprint(plan)}: {', '.join(stated)}")
    if plan.loss_spec is not None:
        yield from _wrap(f"loss {plan.loss_spec.name}, which accepts {names(plan.loss_spec.accepts)} targets")


def _steps(plan: PlanData) -> Iterator[str]:
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
    if step.inserted:
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


def _hooks(plan: PlanData) -> Iterator[str]:
    for event in Event:
        hooks = [hook for phase in PHASES for hook in _at(plan, event, phase)]
        if hooks:
            yield f"{'each ' if event.within else ''}{event.value}"
        for hook in hooks:
            yield from _wrap(f"  {_phase(hook.effect.phase)} {hook.name}: {_touches(hook.effect)}")


def _at(plan: PlanData, event: Event, phase: Phase) -> list[HookStep]:
    """Return the hooks of one moment, in the order in which they run."""
    return [hook for hook in plan.hooks if (hook.effect.event, hook.effect.phase) == (event, phase)]


def _phase(phase: Phase) -> str:
    return "in its place" if phase is Phase.REPLACE else phase.value


def _touches(effect: HookEffect) -> str:
    parts = []
    for verb, touched in (("reads", effect.reads), ("edits", effect.writes), ("restores", effect.restores)):
        if touched:
            parts.append(f"{verb} {', '.join(sorted(part.value for part in touched))}")
    return "; ".join(parts)


def _pairs(plan: PlanData) -> Iterator[str]:
    if plan.pairs:
        yield "order"
    for pair in plan.pairs:
        yield from _wrap(f"  {pair.first} before {pair.second}: {pair.outcome} ({pair.rule}): {pair.reason}")


def _every_pair(plan: PlanData) -> Iterator[str]:
    """Return the reason for the order of every two steps of a batch, and of every two hooks of a moment."""
    yield "order of every pair"
    yield from _decisions(plan, plan.steps, ())
    for event, phase in product(Event, PHASES):
        yield from _decisions(plan, _at(plan, event, phase), (event, phase))


def _decisions(plan: PlanData, steps: Sequence[BatchStep | HookStep], moment: tuple[str, ...]) -> Iterator[str]:
    overruling = {(pair.first, pair.second): pair for pair in plan.pairs}
    decided = {decision.names: decision for decision in plan.decisions if decision.moment == moment}
    for first, second in combinations((step.name for step in steps), 2):
        decision, pair = decided.get(frozenset((first, second))), overruling.get((first, second))
        rule, reason = (decision.rule, decision.reason) if decision else ("commuting", COMMUTE)
        if decision and decision.listed and pair is None:
            rule, reason = "implied", "they do not commute, and their orders with others leave one order for them"
        outcome = f"{pair.outcome}, " if pair else ""
        yield from _wrap(f"  {first} before {second}: {outcome}{rule}: {reason}")


def _microbatches(plan: PlanData) -> Iterator[str]:
    """Describe the effect of microbatches on the methods, if there is any."""
    count = plan.facts.microbatches
    whole = dict.fromkeys(hook.name for hook in plan.hooks if hook.effect.whole_batch)
    each = dict.fromkeys(hook.name for hook in plan.hooks if hook.effect.event in PASSES)
    if count > 1 or whole:
        yield "microbatches"
    if count > 1:
        yield from _wrap(f"  each device batch is edited whole, then split into {count}, whose gradients add up")
    if count > 1 and each:
        yield from _wrap(f"  in each of the {count}: {', '.join(each)}")
    if whole:
        yield from _wrap(f"  none: in a forward pass {', '.join(whole)} must see the whole device batch")


def _at_the_loss(plan: PlanData) -> Iterator[str]:
    """Describe the smoothing and the mixing of the targets at the loss."""
    yield "at the loss"
    for claim in (SMOOTHING, MIXING):
        owners = [
            f"{'' if held.amount is None else f'{held.amount:g} '}by {owner}{when}"
            for owner, when, held in _claims(plan)
            if held.slot.name == claim.slot.name
        ]
        yield from _wrap(f"  {claim.slot.name}: {', '.join(owners) or 'none'}")


def _owners(plan: PlanData) -> Iterator[str]:
    """Describe the other claims."""
    told = (SMOOTHING.slot.name, MIXING.slot.name)
    claims = [(owner, claim.slot.name) for owner, _, claim in _claims(plan) if claim.slot.name not in told]
    if claims:
        yield "owns"
    for slot in dict.fromkeys(slot for _, slot in claims):
        yield from _wrap(f"  {slot}: {', '.join(owner for owner, other in claims if other == slot)}")


def _claims(plan: PlanData) -> list[tuple[str, str, Claim]]:
    """Return the owner of each slot and its batches, the loss included."""
    held = [
        (member.identity, f" ({member.schedule})" if str(member.schedule) else "", claim)
        for member in plan.members
        for claim in member.claims
    ]
    loss = plan.loss_spec
    return held if loss is None else [*held, *((f"the loss {loss.name}", "", claim) for claim in loss.claims)]


def _draws(plan: PlanData) -> Iterator[str]:
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
