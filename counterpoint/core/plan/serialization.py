"""A plan as plain data, and the fingerprint of that data."""

from __future__ import annotations

from typing import Any

from counterpoint.core.declare.kinds import Field, Kind
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.plan.data import PlanData
from counterpoint.core.plan.digest import described, digest
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.steps import BatchStep

__all__ = ["fingerprint", "to_data"]


def to_data(plan: PlanData) -> dict[str, Any]:
    """Return everything that decides what a plan does, as plain data."""
    return {
        "version": 2,
        "facts": plan.facts.to_data(),
        "loss": None if plan.loss_spec is None else _loss_data(plan.loss_spec),
        "algorithms": sorted((_member_data(member) for member in plan.members), key=lambda data: str(data["id"])),
        "steps": [_step_data(step) for step in plan.steps],
        "hooks": [
            {
                "name": hook.name,
                "method": hook.effect.method,
                "event": hook.effect.event,
                "phase": hook.effect.phase,
            }
            for hook in plan.hooks
        ],
    }


def fingerprint(plan: PlanData) -> str:
    """Return a digest of everything that decides what a plan does."""
    return digest(to_data(plan))


def _member_data(member: Member) -> dict[str, Any]:
    schedule = member.schedule
    settings = member.algorithm.model_dump(exclude={"after", "before", "id", "start", "end", "every", "p"})
    return {
        "id": member.identity,
        "name": member.algorithm.name,
        "settings": described(settings),
        "schedule": {"start": schedule.start, "end": schedule.end, "every": schedule.every, "p": schedule.p},
        "draws": "shared" if member.rank_free else "by rank",
        "acts": "shared" if member.acts_alike else "by rank",
        "branches": [_member_data(branch) for branch in member.branches],
    }


def _loss_data(loss: LossSpec) -> dict[str, Any]:
    claims = [{"slot": claim.slot.name, "amount": claim.amount} for claim in loss.claims]
    accepts = sorted(kind.name for kind in loss.accepts)
    own = {"function": loss.function, "denominator": loss.denominator, "each": loss.each}
    settings = described(own if loss.settings is None else loss.settings)
    return {
        "name": loss.name,
        "accepts": accepts,
        "claims": claims,
        "ignore_index": loss.ignore_index,
        "settings": settings,
    }


def _step_data(step: BatchStep) -> dict[str, Any]:
    def kinds(side: dict[Field, Kind]) -> dict[str, str]:
        return {part.value: kind.name for part, kind in sorted(side.items())}

    return {"name": step.name, "conversion": step.inserted, "before": kinds(step.before), "after": kinds(step.after)}
