"""What each member draws, and when it acts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import counterpoint as cp
from counterpoint.algorithms import CutOut, OneOf
from counterpoint.core.run.dice import Dice
from tests.core.methods import check

SPEC = cp.BatchSpec(4, (1, 8, 8), 4)
FACTS: dict[str, Any] = {"loss": torch.nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": 10, "seed": 17}


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


@pytest.mark.slow
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


def test_a_method_of_hardly_any_probability_hardly_acts() -> None:
    plan = check([Number(p=1e-300)])
    assert not any(plan.draws(step, SPEC) for step in range(100))


@pytest.mark.parametrize("name", ["sam", "gradient_clipping", "ema", "selective_backprop"])
def test_what_edits_or_runs_the_model_acts_on_the_same_batches_on_every_rank(name: str) -> None:
    """Or ranks would train replicas that differ, or wait for each other's passes for ever."""
    plan = cp.compose([{"name": name, "p": 0.5}, {"name": "cutout", "p": 0.5}], **FACTS)
    acting = {rank: [_acting(plan, step, rank) for step in range(40)] for rank in range(3)}
    assert acting[0] != acting[1] != acting[2]
    alike = {rank: [name in names for names in steps] for rank, steps in acting.items()}
    assert alike[0] == alike[1] == alike[2]
    assert 10 < sum(alike[0]) < 30


def _acting(plan: cp.Plan, step: int, rank: int) -> set[str]:
    dice = Dice(plan.facts.seed, step, rank)
    return {member.identity for member in plan.members if dice.acts(member)}


def test_samples_are_selected_by_draws_of_each_rank() -> None:
    plan = cp.compose(["selective_backprop"], **FACTS)
    first, second = (plan.draws(0, cp.BatchSpec(8, (1, 8, 8), 10), rank=rank) for rank in (0, 1))
    assert not torch.equal(first["selective_backprop"], second["selective_backprop"])
    assert "each rank its own: selective_backprop" in plan.explain()


def test_the_plan_says_who_draws_alike() -> None:
    text = cp.compose(["mixup", {"name": "sam", "p": 0.5}, "ema"], **FACTS).explain()
    assert "each rank its own: mixup\n" in text
    assert "the same on every rank: sam" in text
