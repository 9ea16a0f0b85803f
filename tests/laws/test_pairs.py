"""Every pair of built-in methods: refused with a reason, or trained under the contract check with the right targets."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import counterpoint as cp
from counterpoint.cli.cards import example_components
from counterpoint.plugins import ALGORITHMS
from tests.laws.case import CLASSES, STEPS, Composition, edited
from tests.laws.settings import registered
from tests.laws.tally import Tally
from tests.laws.targets import targets_are_the_composition
from tests.laws.training import accepted_or_refused, trains

COMPONENTS = {
    **example_components(),
    "manifold_mixup": {"name": "manifold_mixup", "module": "stem"},
    "swa": {"name": "swa"},
}


def case_of(*components: dict[str, Any], inputs: str) -> Composition:
    facts = {
        "task": "multiclass",
        "num_classes": CLASSES,
        "inputs": inputs,
        "loss": nn.CrossEntropyLoss(),
        "batch_size": 4,
        "steps_per_epoch": 2,
        "max_duration": "4ba",
        "seed": 17,
        "microbatches": 1,
        "contract": "always",
    }
    algorithms = [
        registered()[item["name"]].model_validate(
            {key: value for key, value in item.items() if key != "name"}, context={"resolve": registered().__getitem__}
        )
        for item in components
    ]
    return Composition(tuple(algorithms), facts, 4, torch.float32, dense=False, seed=3)


def test_every_method_has_an_example() -> None:
    built_in = {entry.name for entry in ALGORITHMS.entries() if entry.package == "counterpoint"}
    assert COMPONENTS.keys() == built_in


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(sorted(COMPONENTS), 2)))
def test_a_pair(one: str, other: str) -> None:
    accepted = 0
    for inputs in ("image", "unit", "bytes"):
        tally = Tally()
        case = case_of(COMPONENTS[one], COMPONENTS[other], inputs=inputs)
        plan = accepted_or_refused(case, tally)
        if plan is None:
            assert tally.codes
            continue
        assert trains(case, plan, tally) is not None, f"the model is refused: {tally.codes}"
        targets_are_the_composition(case, plan, [edited(plan, case, step) for step in range(STEPS)], tally)
        accepted += 1
    mixers = {"mixup", "cutmix", "manifold_mixup", "one_of"}
    assert accepted or {one, other} <= mixers or {one, other} == {"ema", "swa"}


@pytest.mark.slow
def test_each_alone_trains() -> None:
    for name, component in COMPONENTS.items():
        plans: list[cp.Plan] = []
        for inputs in ("image", "unit", "bytes"):
            case = case_of(component, inputs=inputs)
            plan = accepted_or_refused(case, Tally())
            if plan is not None:
                trains(case, plan, Tally())
                plans.append(plan)
        assert plans, name
