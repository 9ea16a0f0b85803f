"""What is stated to ``compose``: any object is taken or gets a fault, and integers are integers."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import counterpoint as cp
from counterpoint.algorithms import MixUp
from counterpoint.core import Terms
from counterpoint.core.check.fixes.changes import apply_changes
from tests.anything import KNOT, LOOP, Seven, anything

ARGUMENTS = sorted(inspect.signature(cp.compose).parameters)
FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 10}


def faults(algorithms: Any = (), **facts: Any) -> tuple[cp.Fault, ...]:
    with pytest.raises(cp.CompositionError) as caught:
        cp.compose(algorithms, **FACTS | facts)
    return caught.value.faults


@pytest.mark.slow
@pytest.mark.kind("10")
@pytest.mark.kind("20")
@given(st.dictionaries(st.sampled_from(ARGUMENTS), anything, min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
def test_any_object_is_taken_or_gets_a_fault(given: dict[str, Any]) -> None:
    arguments = {"algorithms": ["mixup"], **FACTS, **given}
    found: tuple[cp.Fault, ...] = ()
    try:
        plan = cp.compose(**arguments)
    except cp.CompositionError as error:
        found = error.faults
        said = str(error)
    if found:
        assert all(fault.message and fault.fix and fault.message in said for fault in found)
    else:
        assert plan.to_json()
        assert plan.explain()


WRONG: dict[str, list[Any]] = {
    "num_classes": [0, -1, 2.5, 3.0, "10", True, np.True_, [3], torch.tensor(2.0), torch.tensor(True), 10**5000],
    "batch_size": [0, -5, 1.0, "8", False],
    "steps_per_epoch": [0, -5, 10.0, "8", None.__class__],
    "microbatches": [0, -1, None, 1.5, "2", True],
    "seed": [-1, "a", None, 1.5, True, 2**63, 10**5000],
    "strict_order": [0, 1, "yes", None],
    "compile": [1, None, "no"],
    "contract": ["bogus", None, 3, ["off"]],
    "terms": ["python", None],
    "model_inputs": ["image", 3, [], {3}, cp.IMAGE],
    "algorithms": [None, "mixup", 3, {"name": "mixup"}, MixUp(), {"mixup"}, b"mixup", iter(["mixup"])],
    "max_duration": ["0ep", "0ba", 3, "ten", "1e300ep", "１ep", ["1ep"]],
}


@pytest.mark.kind("20")
@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in WRONG.items() for value in values],
    ids=[f"{key}-{place}" for key, values in WRONG.items() for place in range(len(values))],
)
def test_a_value_of_the_wrong_type_is_one_fault_that_names_it(key: str, value: Any) -> None:
    facts: dict[str, Any] = {"algorithms": [], "steps_per_epoch": 5, **FACTS, key: value}
    (fault,) = faults(**facts)
    assert fault.code == (
        "duration-unknown" if key == "max_duration" and value not in ("0ep", "0ba") else "bad-argument"
    )
    assert key in fault.message
    for remedy in fault.remedies:
        assert cp.compose([], **apply_changes([], {k: v for k, v in facts.items() if k != "algorithms"}, [remedy])[1])


@pytest.mark.kind("20")
@pytest.mark.parametrize(
    "integer", [np.int64(10), np.uint8(10), torch.tensor(10), torch.tensor([9, 3]).max() + 1, np.array(10)], ids=repr
)
def test_whatever_is_an_integer_is_taken_as_one(integer: Any) -> None:
    plan = cp.compose(["mixup"], task="multiclass", num_classes=integer, batch_size=integer, seed=integer)
    same = cp.compose(["mixup"], task="multiclass", num_classes=10, batch_size=10, seed=10)
    assert plan.fingerprint == same.fingerprint
    assert plan.to_json() == same.to_json()
    assert plan.explain() == same.explain()
    assert {type(plan.facts.num_classes), type(plan.facts.batch_size), type(plan.facts.seed)} == {int}
    assert cp.compose([], task="multiclass", num_classes=Seven()).facts.num_classes == 7


@pytest.mark.kind("20")
def test_every_wrong_argument_is_listed_beside_the_faults_of_the_list() -> None:
    found = faults(["mixpu"], num_classes="3", seed=None, contract="bogus", task=[], inputs=3, max_duration="0ba")
    assert sorted(fault.code for fault in found) == [
        "bad-argument",
        "bad-argument",
        "bad-argument",
        "bad-argument",
        "inputs-unknown",
        "task-unstated",
        "unknown-algorithm",
    ]


@pytest.mark.kind("10")
@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ("mixup", "write ['mixup']"),
        ({"name": "mixup", "alpha": 0.5}, "write [{'name': 'mixup', 'alpha': 0.5}]"),
        (MixUp(), "write [MixUp(...)]"),
        (None, "write ['mixup']"),
    ],
)
def test_what_is_no_list_is_one_fault_that_shows_the_list(given: Any, fix: str) -> None:
    (fault,) = faults(given)
    assert fault.code == "bad-argument"
    assert fix in fault.message


@pytest.mark.kind("10")
def test_a_list_or_a_choice_that_holds_itself_is_named() -> None:
    assert [fault.code for fault in faults(LOOP)] == ["not-an-algorithm"]
    found = faults([KNOT])
    assert {fault.code for fault in found} == {"bad-setting"}
    assert "a method holds itself" in found[0].message
    assert len(found) == 4  # three branches, and the weights
    nested: Any = "mixup"
    for _ in range(2000):
        nested = {"name": "one_of", "algorithms": [nested]}
    (fault,) = faults([nested])
    assert "more than 8 deep" in fault.message
    for depth in range(3):
        nested = "cutout" if depth == 0 else {"name": "one_of", "algorithms": [nested]}
        assert cp.compose([nested], **FACTS)


@pytest.mark.kind("20")
def test_the_fix_writes_the_number_that_was_meant() -> None:
    assert faults(num_classes="3")[0].fix == "state num_classes=3"
    assert faults(num_classes=12.0)[0].fix == "state num_classes=12"
    assert faults(num_classes=0.0)[0].fix == "state num_classes=10"
    assert faults(batch_size="x", terms=Terms.YAML)[0].fix == "state `batch_size: 32` of the data"
    assert faults(compile="x", terms=Terms.YAML)[0].fix == "state `compile: false`"
    assert faults(contract="first_step")[0].fix == "state contract='first_steps'"
    assert "did you mean 'first_steps'" in faults(contract="first_step")[0].message


@pytest.mark.kind("21")
def test_statements_that_come_to_nothing_together_are_refused() -> None:
    for facts, said in (
        ({"batch_size": 4, "microbatches": 5}, "a device batch of 4 cannot be split into more than 4 parts"),
        ({"compile": True, "contract": "always"}, "compile=True would compile none"),
        ({"loss_accepts": {"dense"}}, "there is no loss"),
        ({"max_duration": "0.001ep", "steps_per_epoch": 10}, "less than one batch"),
    ):
        (fault,) = faults(["mixup"], **facts)
        assert fault.code == "bad-argument"
        assert said in fault.message
    assert cp.compose(["mixup"], batch_size=4, microbatches=4, **FACTS)
    assert cp.compose(["mixup"], compile=True, contract="first_steps", **FACTS)
    assert "accumulate is 5" in faults(batch_size=4, microbatches=5, terms=Terms.YAML)[0].message
