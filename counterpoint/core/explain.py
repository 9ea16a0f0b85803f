"""A plan in words: its steps by event, the kinds between them, and who decided the order."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from counterpoint.core.conversions import Conversion
from counterpoint.core.effects import HookEffect, Phase
from counterpoint.core.events import Event
from counterpoint.core.kinds import Field, names
from counterpoint.core.plan import BatchStep, Plan

__all__ = ["explain"]

WIDTH = 80
_ROW = "  {:<32} {:<20} {}"


def explain(plan: Plan) -> str:
    """Return the plan as text, at most 80 columns wide."""
    return "\n".join([*_facts(plan), "", *_steps(plan), *_hooks(plan), *_pairs(plan)])


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
    if step.work.algorithm.shared:
        parts.append("same draws on every rank")
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


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="      ", replace_whitespace=False, drop_whitespace=True)
