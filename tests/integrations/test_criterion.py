"""The plan that takes the loss of a model is the plan of the same methods and facts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import counterpoint as cp
from counterpoint.integrations.criterion import loss_modules, with_loss

pytestmark = pytest.mark.kind("30")


def _plan(**other: object) -> cp.Plan:
    """A plan of which no fact is the default."""
    facts: dict[str, object] = {
        "loss": nn.CrossEntropyLoss(),
        "task": "multiclass",
        "num_classes": 5,
        "inputs": "normalized",
        "batch_size": 6,
        "steps_per_epoch": 7,
        "max_duration": "3ep",
        "seed": 11,
        "compile": True,
        "model_inputs": ["normalized"],
        "microbatches": 2,
        "contract": "off",
    }
    return cp.compose(["mixup", "label_smoothing"], **{**facts, **other})


def test_another_loss_leaves_every_fact_as_it_is() -> None:
    plan = _plan()
    assert plan.facts.clock.total == 21
    weighed = nn.CrossEntropyLoss(torch.linspace(0.5, 1.5, 5))
    found = with_loss(plan, weighed)
    assert found.facts == plan.facts
    assert (found.contract, found.backend is None) == (plan.contract, False)
    assert found.order == plan.order
    assert found.fingerprint == _plan(loss=weighed).fingerprint != plan.fingerprint
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(6, 5, generator=generator), torch.arange(6) % 5
    wanted = nn.functional.cross_entropy(outputs, labels, torch.linspace(0.5, 1.5, 5))
    assert found.loss(outputs, labels).item() == pytest.approx(wanted.item())


@pytest.mark.parametrize(("compiled", "contract"), [(False, "always"), (False, "off"), (True, "first_steps")])
def test_compilation_and_contract_stay(compiled: bool, contract: str) -> None:
    found = with_loss(_plan(compile=compiled, contract=contract), nn.CrossEntropyLoss())
    assert (found.backend is not None, found.contract.value) == (compiled, contract)


def test_a_loss_that_is_the_model_is_not_among_its_modules() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.CrossEntropyLoss(), nn.Sequential(nn.MSELoss()))
    assert list(loss_modules(model)) == ["1", "2.0"]
    assert loss_modules(nn.CrossEntropyLoss()) == {}
