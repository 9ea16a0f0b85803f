"""What each member draws, and when it acts."""

from __future__ import annotations

import torch
from torch import Tensor

import counterpoint as cp
from counterpoint.algorithms import CutOut, OneOf
from tests.core.methods import check

SPEC = cp.BatchSpec(4, (1, 8, 8), 4)


class Number(cp.Algorithm[Tensor], name="number"):
    """Draws one number."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.uniform()

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: Tensor) -> cp.Batch:
        return batch.with_inputs(batch.inputs * draws)


def test_two_of_one_method_draw_apart() -> None:
    drawn = check([CutOut(id="one"), CutOut(id="other")]).draws(0, SPEC)
    assert not torch.equal(drawn["one"], drawn["other"])


def test_whether_a_method_acts_says_nothing_of_what_it_draws() -> None:
    plan = check([Number(p=0.3)])
    drawn = [float(found["number"]) for step in range(3000) if (found := plan.draws(step, SPEC))]
    assert 780 < len(drawn) < 1020
    assert abs(sum(drawn) / len(drawn) - 0.5) < 0.05
    assert max(drawn) > 0.95


def test_which_branch_is_chosen_says_nothing_of_what_it_draws() -> None:
    plan = check([OneOf(algorithms=[Number(id="a"), Number(id="b")])])
    found = [plan.draws(step, SPEC) for step in range(1000)]
    for name in ("one_of.a", "one_of.b"):
        drawn = [float(draws[name]) for draws in found if draws["one_of"] == name]
        assert len(drawn) > 400
        assert abs(sum(drawn) / len(drawn) - 0.5) < 0.05


def test_a_method_of_probability_0_never_acts() -> None:
    plan = check([Number(p=0.0)])
    assert not any(plan.draws(step, SPEC) for step in range(100))
