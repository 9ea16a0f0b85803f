"""Faults of kinds: what a method, the loss or the model needs, and does not get."""

from __future__ import annotations

from collections.abc import Sequence

from counterpoint.core.check.catalog import Catalog
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import INPUT_KINDS, Field, Kind, names
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.faults import Fault
from counterpoint.core.plan.facts import Facts
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.steps import BatchStep
from counterpoint.core.remedies import Add, Decide, Drop, State, Way

__all__ = ["unmet", "unmet_loss", "unmet_model"]


def unmet(node: BatchStep, part: Field, kind: Kind, needs: frozenset[Kind], facts: Facts, catalog: Catalog) -> Fault:
    """Return the fault of a step that gets a kind which it does not take."""
    message = f"{node.name} edits {part.value} of kind {names(needs)}, and gets {kind}"
    ways: list[Way] = [(Add(item),) for item in catalog.givers(kind, needs)]
    if isinstance(node.work, Member):
        claims = [claim for claim in node.work.claims if part is Field.INPUTS]
        others = [item for claim in claims for item in catalog.owners(claim, node.work.algorithm.name)]
        ways += [(Drop(node.identity), Add(item)) for item in others]
    ways.append((Drop(node.identity),))
    if part is Field.INPUTS and kind == facts.inputs:
        elsewhere = f"use data whose inputs are {names(needs)}"
        ways += [(State({"inputs": other.name}, elsewhere),) for other in INPUT_KINDS if other in needs]
    return Fault("needs-unmet", message, algorithms=(node.name,), event=Event.BATCH, ways=tuple(ways))


def unmet_loss(steps: Sequence[BatchStep], loss: LossSpec, kind: Kind, facts: Facts, catalog: Catalog) -> Fault:
    """Return the fault of a loss that gets targets of a kind which it does not accept."""
    editors = tuple(
        step.name
        for step in steps
        if isinstance(step.work, Member) and any(Field.TARGETS in effect.edits for effect in step.effects)
    )
    out = tuple(map(Drop, dict.fromkeys(step.identity for step in steps if step.name in editors)))
    cause = f", because of {', '.join(editors)}" if editors else ""
    message = f"the loss {loss.name} accepts {names(loss.accepts)} targets, and would get {kind}{cause}"
    said = State({"loss_accepts": {*(accepted.name for accepted in loss.accepts), kind.name}})
    ways: list[Way] = [
        (State({"loss": name} | more),)
        for name in catalog.losses_for(kind)
        for more in ({}, {"loss_accepts": None})  # what is stated about the user's own loss
    ]
    ways += [(said,), *([out] if out else []), (Decide(f"use a loss that accepts {kind} targets"),)]
    return Fault("loss-targets", message, algorithms=(loss.name, *editors), event=Event.LOSS, ways=tuple(ways))


def unmet_model(steps: Sequence[BatchStep], kind: Kind, facts: Facts, catalog: Catalog) -> Fault:
    """Return the fault of a model that gets inputs of a kind which it does not take."""
    givers = tuple(step.name for step in steps if step.before[Field.INPUTS] != step.after[Field.INPUTS])
    cause = f", because of {', '.join(givers)}" if givers else ""
    takes = "any but bytes" if facts.model_inputs is None else names(facts.model_inputs)
    wanted = frozenset(INPUT_KINDS) - {kind} if facts.model_inputs is None else facts.model_inputs
    message = f"the model takes inputs of kind {takes}, and would get {kind}{cause}"
    ways: list[Way] = [(Add(item),) for item in catalog.givers(kind, wanted)]
    said = f"if the model does take {kind}, give Trainer your model and model_inputs={{{kind.name!r}}}"
    ways.append((State({"model_inputs": {kind.name}}, said),))
    return Fault("model-inputs", message, algorithms=givers, event=Event.FORWARD, ways=tuple(ways))
