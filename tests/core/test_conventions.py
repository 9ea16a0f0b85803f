"""Which of two edits that do not commute comes first, where a convention says so."""

from __future__ import annotations

import pytest

import counterpoint as cp
from tests.algorithms.batches import plan_for
from tests.core.methods import Blend, Hole, Recolor, Shrink


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("first", "second", "rule"),
    [(Shrink, Blend, "resizing-first"), (Recolor, Blend, "single-before-across"), (Recolor, Hole, "filling-last")],
)
def test_the_order_of_a_convention_whatever_the_list_says(
    first: type[cp.Algorithm[None]], second: type[cp.Algorithm[None]], rule: str
) -> None:
    for listed in ([first(), second()], [second(), first()]):
        plan = plan_for(listed)
        names = [step.name for step in plan.steps if step.name in {first().name, second().name}]
        assert names == [first().name, second().name], rule
