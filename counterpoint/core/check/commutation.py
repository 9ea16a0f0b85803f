"""When two edits commute, derived from what they declare, and what decides their order when they do not.

One theorem: two edits of a field commute if each one's ``acts`` is disjoint from the other's ``acts`` and ``varies``,
and their forms agree. A nonlinear map commutes only with a selection, and a map with an offset only with averages.
Fills with one constant commute. Everything follows from the declarations; no method is named.
"""

from __future__ import annotations

from dataclasses import dataclass

from counterpoint.core.declare.effects import Edit, Form, HookEffect, TransformEffect
from counterpoint.core.declare.kinds import Field

__all__ = ["AS_LISTED", "Verdict", "commute", "convention", "hooks_commute"]


@dataclass(frozen=True)
class Verdict:
    """Which step of a pair comes first, and why: ``sign`` is -1 (the first), 1 (the second) or 0 (not settled)."""

    sign: int
    rule: str
    reason: str


AS_LISTED = Verdict(0, "as-listed", "they do not commute, and no rule orders them")
"""The result for two steps that only the list can order."""


def edits_commute(first: Edit, second: Edit) -> bool:
    """Whether two edits of one field give the same result in either order."""
    if first.fills is not None and first.fills == second.fills and not first.acts and not second.acts:
        return True
    if first.acts & (second.acts | second.varies) or second.acts & (first.acts | first.varies):
        return False
    return _forms_agree(first.form, second.form) and _forms_agree(second.form, first.form)


def _forms_agree(form: Form, other: Form) -> bool:
    if form is Form.NONLINEAR:
        return other is Form.SELECT
    return form is not Form.AFFINE or other <= Form.AVERAGE


def commute(first: TransformEffect, second: TransformEffect) -> bool:
    """Whether two transforms give the same batch in either order."""
    if first.reads & second.edits.keys() or second.reads & first.edits.keys():
        return False
    shared = first.edits.keys() & second.edits.keys()
    return all(edits_commute(first.edits[part], second.edits[part]) for part in shared)


def convention(first: TransformEffect, second: TransformEffect) -> Verdict:
    """Return what the stated conventions say of two transforms that do not commute; the first match wins."""
    for rule, early, reason in (
        ("resizing-first", lambda effect: effect.resizes, "what changes the size of the inputs comes first"),
        (
            "single-before-across",
            lambda effect: not effect.across_samples,
            "edits of single samples come before mixing",
        ),
        ("filling-last", lambda effect: not effect.fills, "constant regions would be edited by what comes after"),
    ):
        if early(first) != early(second):
            return Verdict(-1 if early(first) else 1, rule, reason)
    return AS_LISTED


def hooks_commute(first: HookEffect, second: HookEffect) -> bool:
    """Whether two hooks of one moment leave training in the same state in either order."""

    def touched(effect: HookEffect) -> frozenset[Field]:
        return effect.reads | effect.writes

    return not (first.writes & touched(second) or second.writes & touched(first))
