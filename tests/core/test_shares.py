"""How the losses of the parts of a batch add up, over microbatches and processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import counterpoint as cp
from counterpoint.core.run.training.shares import Shares, as_mean, shares

pytestmark = pytest.mark.kind("30")

# The weights of the classes give these parts denominators of 1 + 1 = 2 and 1 + 3 + 3 = 7.
WEIGHTED = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
PARTS = [torch.tensor([0, 0]), torch.tensor([0, 1, 1])]


def plan_of(loss: torch.nn.Module) -> cp.Plan:
    return cp.compose([], loss=loss, task="multiclass", num_classes=2)


@pytest.mark.parametrize(
    ("parts", "processes", "others", "factors", "weight"),
    [
        (PARTS, 1, None, [2 / 9, 7 / 9], 9.0),
        (PARTS, 1, 5.0, [2 / 9, 7 / 9], 9.0),
        (PARTS[1:], 1, 5.0, [1.0], 7.0),
        (PARTS[1:], 2, 5.0, [7 * 2 / 12], 6.0),
        (PARTS, 3, 6.0, [2 * 3 / 15, 7 * 3 / 15], 5.0),
    ],
)
def test_parts_count_by_their_denominator_among_those_of_all_processes(
    parts: list[Tensor], processes: int, others: float | None, factors: list[float], weight: float
) -> None:
    asked = []

    def add(own: Tensor) -> Tensor:
        asked.append(float(own))
        return own + (others or 0)

    found = shares(plan_of(WEIGHTED), parts, processes=processes, add=None if others is None else add)
    assert found.factors == pytest.approx(factors)
    assert float(found.weight or 0) == pytest.approx(weight)
    assert asked == ([9.0 if len(parts) == 2 else 7.0] if processes > 1 else [])


def test_losses_that_are_sums_count_once_for_every_process() -> None:
    plan = plan_of(torch.nn.CrossEntropyLoss(reduction="sum"))
    found = shares(plan, PARTS, processes=3, add=lambda own: own)
    assert (found.factors, found.weight) == ([3.0, 3.0], None)
    assert as_mean(plan, torch.tensor(6.0), PARTS[1]) == (2.0, 3.0)
    assert as_mean(plan_of(WEIGHTED), torch.tensor(6.0), PARTS[1]) == (6.0, 7.0)


def test_a_part_in_which_no_target_counts_adds_nothing_and_a_whole_batch_of_them_is_nan() -> None:
    plan, ignored = plan_of(torch.nn.CrossEntropyLoss()), torch.tensor([-100, -100])
    found = shares(plan, [ignored, torch.tensor([1, 0, -100])])
    outputs = torch.ones(2, 2, requires_grad=True)
    assert found.factors == [0.0, 1.0]
    loss = found.scaled(0, outputs, torch.tensor(torch.nan))
    assert loss == 0
    assert torch.equal(
        torch.autograd.grad(found.scaled(0, outputs, torch.tensor(torch.nan)), outputs)[0], torch.zeros(2, 2)
    )
    assert all(factor != factor for factor in shares(plan, [ignored, ignored]).factors)


def test_the_loss_of_each_part_has_the_factor_of_that_part() -> None:
    found, outputs = Shares([1.0, 0.25, 2.0], 1.0), torch.ones(1)
    assert [float(found.scaled(part, outputs, torch.tensor(8.0))) for part in range(3)] == [8.0, 2.0, 16.0]
