"""Fixes in words can be taken at their word: pasted into the list, they mend it."""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Any

import pytest
import yaml

import counterpoint as cp
from counterpoint.algorithms import CutMix, LabelSmoothing, MixUp, OneOf
from counterpoint.core import Terms

FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 10, "steps_per_epoch": 10, "max_duration": "10ep"}


def faults(algorithms: list[object], terms: Terms = Terms.PYTHON) -> tuple[cp.Fault, ...]:
    with pytest.raises(cp.CompositionError) as caught:
        cp.compose(algorithms, terms=terms, **FACTS)
    return caught.value.faults


def written_choice(fix: str, terms: Terms) -> dict[str, Any]:
    """Read the choice out of a fix, as a user would paste it."""
    text = fix.partition("choose one a batch: ")[2]
    choice = literal_eval(text) if terms is Terms.PYTHON else yaml.safe_load(text.strip("`"))
    assert isinstance(choice, dict)
    return choice


@pytest.mark.parametrize("terms", Terms)
@pytest.mark.parametrize(
    "pair",
    [
        (MixUp(alpha=1.0), MixUp(id="late", start="0.5dur", p=0.3)),
        (CutMix(id="null", per_sample=True), MixUp()),
        (LabelSmoothing(), LabelSmoothing(id="more", smoothing=0.2, end="9ep")),
        (MixUp(), OneOf(algorithms=[CutMix(), MixUp(alpha=0.5)], weights=[1, 2.5])),
    ],
)
def test_a_choice_that_a_fix_writes_keeps_names_ids_and_settings(pair: tuple[Any, Any], terms: Terms) -> None:
    (fault,) = faults([*pair], terms)
    assert fault.code in ("two-mixers", "double-smoothing")
    plan = cp.compose([written_choice(fault.fix, terms)], **FACTS)
    assert [branch.algorithm for branch in plan.members[0].branches] == [*pair]


def test_a_choice_of_bare_names_is_written_with_bare_names() -> None:
    (fault,) = faults(["mixup", "cutmix"], Terms.YAML)
    assert fault.fix.endswith("`{name: one_of, algorithms: [mixup, cutmix]}`")


@pytest.mark.parametrize(
    ("named", "code"),
    [
        ({"name": "cutout", "length": 3}, "bad-setting"),
        ({"name": "cutout", "id": "hole", "lenght": 0.5}, "bad-setting"),
        ({"name": "cutout", "start": "5ba", "end": "5ba"}, "empty-window"),
        ({"name": "cutuot"}, "unknown-algorithm"),
        ({"name": "one_of", "id": "hole", "algorithms": [{"name": "cutout", "end": "0ba"}]}, "empty-window"),
    ],
)
def test_a_wish_that_names_a_faulty_method_is_no_fault_of_its_own(named: dict[str, Any], code: str) -> None:
    wish = {"name": "mixup", "after": named.get("id", named["name"])}
    assert [fault.code for fault in faults([named, wish])] == [code]


def test_a_wish_that_names_nobody_is_found_beside_a_faulty_method() -> None:
    found = {
        fault.code: fault for fault in faults([{"name": "cutout", "length": 3}, {"name": "mixup", "after": "ema"}])
    }
    assert found.keys() == {"bad-setting", "unknown-reference"}
    assert found["unknown-reference"].algorithms == ("mixup", "ema")
    assert re.search("leave|drop", found["unknown-reference"].fix)


def test_an_impossible_wish_says_why_and_where_it_is_written_once() -> None:
    wishes: list[object] = [
        {"name": "mixup", "before": "normalize"},
        {"name": "normalize", "mean": [0.5], "std": [0.5], "after": "mixup"},
    ]
    with pytest.raises(cp.CompositionError) as caught:
        cp.compose(wishes, inputs="bytes", terms=Terms.YAML, **FACTS)
    (fault,) = caught.value.faults
    assert fault.code == "wish-impossible"
    assert "normalize → mixup (mixup needs features, image, normalized, unit inputs, which normalize gives)" in str(
        fault
    )
    assert fault.fix == "drop `before: normalize` of mixup and `after: mixup` of normalize"
