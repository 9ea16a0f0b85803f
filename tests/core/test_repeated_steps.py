"""A plan that is called twice for a step says so once, with the remedy; calls that mean it say so."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import counterpoint as cp

pytestmark = pytest.mark.kind("6")

X, Y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])


def plan(*methods: Any) -> cp.Plan:
    return cp.compose([*methods], task="multiclass", num_classes=3, contract="off")


def said(composed: cp.Plan, calls: list[dict[str, Any]]) -> list[int]:
    """Return at which of the calls there was a warning."""
    found = []
    for number, call in enumerate(calls):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            composed(X, Y, **call)
        found += [number] * len(caught)
        for warning in caught:
            assert warning.category is cp.RepeatedStepWarning
            assert warning.filename == __file__
            assert f"step {call['step']} was edited before" in str(warning.message)
            assert "step += 1" in str(warning.message)
            assert "repeat=True" in str(warning.message)
    return found


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 6) | st.integers(0, 5000), st.integers(0, 1), st.booleans()), max_size=12))
@settings(deadline=None, max_examples=40)
def test_it_is_said_at_the_first_call_that_repeats_one(calls: list[tuple[int, int, bool]]) -> None:
    seen: set[tuple[int, int]] = set()
    expected = None
    for number, (step, rank, repeat) in enumerate(calls):
        if repeat:
            continue
        if (step, rank) in seen and expected is None:
            expected = number
        seen.add((step, rank))
    found = said(plan("mixup"), [{"step": step, "rank": rank, "repeat": repeat} for step, rank, repeat in calls])
    assert found == ([] if expected is None else [expected])


def test_a_loop_that_does_not_count_hears_it_once() -> None:
    assert said(plan("cutout"), [{"step": 0}] * 20) == [1]


@pytest.mark.slow
def test_a_loop_that_counts_anew_in_each_epoch_hears_it_at_the_second() -> None:
    calls = [{"step": step} for _ in range(3) for step in range(2000)]
    assert said(plan("cutout"), calls) == [2000]


@pytest.mark.slow
def test_a_loop_that_counts_hears_nothing() -> None:
    assert said(plan("mixup", "cutout"), [{"step": step} for step in range(1100)]) == []


@pytest.mark.parametrize(
    ("methods", "warns"),
    [
        ([], False),
        (["label_smoothing"], False),
        (["mixup"], True),
        ([{"name": "label_smoothing", "p": 0.5}], True),
        ([{"name": "label_smoothing", "start": "3ba"}], True),
        ([{"name": "label_smoothing", "every": 2}], True),
        ([{"name": "one_of", "algorithms": ["mixup", "cutmix"]}], True),
    ],
    ids=str,
)
def test_it_is_said_where_the_step_decides_something(methods: list[Any], warns: bool) -> None:
    assert said(plan(*methods), [{"step": 0}, {"step": 0}]) == ([1] if warns else [])


def test_a_call_that_fails_and_other_looks_at_a_step_count_for_nothing() -> None:
    composed = plan("mixup")
    with pytest.raises(cp.DataError):
        composed(X, Y[:2], step=0)
    composed.draws(0, cp.BatchSpec(4, (1, 4, 4), 3))
    composed.prepare(X, Y)
    assert said(composed, [{"step": 0}]) == []
    assert said(copy.deepcopy(composed), [{"step": 0}]) == []
    assert said(composed, [{"step": 0}]) == [0]


def test_a_call_that_repeats_gives_the_same_bits() -> None:
    composed = plan("mixup")
    first, again = composed(X, Y, step=3), composed(X, Y, step=3, repeat=True)
    assert all(map(torch.equal, first, again))
