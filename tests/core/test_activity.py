"""A composition is refused exactly where one of its methods can act on no batch of the run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import counterpoint as cp
from counterpoint.algorithms import EMA, SWA, CutOut, GradientClipping, MixUp, OneOf
from counterpoint.core import Terms
from counterpoint.core.check.fixes.changes import apply_changes

FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 10, "steps_per_epoch": 5, "max_duration": "2ep"}
TOTAL = 10
NEVER = {"empty-window", "never-acts"}


def refused(listed: list[Any], **facts: Any) -> list[cp.Fault]:
    try:
        cp.compose(listed, **FACTS | facts)
    except cp.CompositionError as error:
        return list(error.faults)
    return []


def codes(listed: list[Any], **facts: Any) -> list[str]:
    return [fault.code for fault in refused(listed, **facts)]


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if draw(st.booleans()):
        settings["start"] = f"{draw(st.integers(0, TOTAL + 3))}ba"
    if draw(st.booleans()):
        settings["end"] = f"{draw(st.integers(0, TOTAL + 3))}ba"
    if draw(st.booleans()):
        settings["every"] = draw(st.integers(1, TOTAL + 3))
    if draw(st.integers(0, 5)) == 0:
        settings["p"] = draw(st.sampled_from([0.0, 0.5]))
    return settings


def batches(settings: dict[str, Any]) -> set[int]:
    """Count the batches of the run on which a method may act, by the definition of its settings."""
    if settings.get("p") == 0:
        return set()
    start, end = (
        int(settings.get(key, other).removesuffix("ba")) for key, other in (("start", "0ba"), ("end", "99ba"))
    )
    return set(range(start, min(end, TOTAL), settings.get("every", 1)))


@pytest.mark.slow
@pytest.mark.kind("21")
@given(schedules(), st.sampled_from([CutOut, EMA, GradientClipping, MixUp]))
def test_a_method_is_refused_exactly_where_it_acts_on_no_batch(settings: dict[str, Any], method: type[Any]) -> None:
    found = codes([method(**settings)])
    assert bool(found) is not bool(batches(settings))
    assert set(found) <= NEVER


@pytest.mark.slow
@pytest.mark.kind("21")
@given(schedules(), st.lists(st.tuples(schedules(), st.sampled_from([0, 1, 2.5])), min_size=1, max_size=3))
def test_a_branch_is_refused_exactly_where_it_acts_on_no_batch(
    settings: dict[str, Any], branches: list[tuple[dict[str, Any], float]]
) -> None:
    weights = [weight for _, weight in branches]
    if not any(weights):
        return
    listed = [CutOut(id=f"hole_{place}", **branch) for place, (branch, _) in enumerate(branches)]
    found = codes([OneOf(algorithms=listed, weights=weights, **settings)])
    acting = batches(settings)
    every = all(weight and batches(branch) & acting for branch, weight in branches)
    assert bool(found) is not bool(acting and every)
    assert set(found) <= NEVER


@pytest.mark.kind("21")
def test_a_choice_within_a_choice_acts_where_both_do() -> None:
    def nested(**inner: Any) -> list[str]:
        choice = OneOf(id="inner", algorithms=[CutOut(**inner)], every=3, start="1ba")
        return codes([OneOf(algorithms=[choice, CutOut(id="other")], every=2)])

    assert nested(start="4ba", every=6) == []
    assert nested(start="1ba", every=6) == ["never-acts"]
    assert nested(start="5ba") == ["never-acts"]  # 7 is odd, and the next one after it, 10, is past the end
    assert codes([OneOf(algorithms=[OneOf(id="inner", algorithms=[CutOut()], every=3, start="1ba")], every=2)]) == []


@pytest.mark.kind("21")
@pytest.mark.parametrize(
    ("method", "said"),
    [
        (SWA(start="50ep"), "swa starts at batch 250, and the run ends with batch 9"),
        (SWA(start="1dur"), "swa starts at batch 10, and the run ends with batch 9"),
        (CutOut(p=0.0), "cutout acts with probability 0"),
        (OneOf(algorithms=[CutOut(), MixUp()], weights=[0, 1]), "one_of.cutout has the weight 0 in one_of"),
        (
            OneOf(algorithms=[CutOut(start="7ba"), MixUp()], end="5ba"),
            "one_of.cutout acts on no batch on which one_of acts: the one acts from 7ba, the other until 5ba",
        ),
    ],
)
def test_the_fault_says_why_it_never_acts(method: Any, said: str) -> None:
    (fault,) = refused([method])
    assert fault.code in NEVER
    assert said in fault.message


@pytest.mark.kind("21")
@pytest.mark.parametrize("method", [SWA(start="50ep"), CutOut(p=0.0), CutOut(start="9ep", p=0.0), EMA(end="0ba")])
def test_the_fix_makes_it_act(method: Any) -> None:
    listed: list[Any] = [method]
    for _ in range(2):
        for fault in refused(listed):
            assert fault.remedies
            listed = apply_changes(listed, FACTS, fault.remedies)[0]
    assert codes(listed) == []
    assert cp.compose(listed, **FACTS).members[0].algorithm.name == method.name


@pytest.mark.kind("21")
def test_the_fix_is_worded_for_who_reads_it() -> None:
    (fault,) = refused([SWA(start="50ep")], terms=Terms.YAML)
    assert fault.fix == "set `start: 9ba` of swa, or leave swa out, or make the run longer"
    (fault,) = refused([SWA(start="50ep")])
    assert fault.fix == "set start='9ba' of swa, or leave swa out, or make the run longer"


@pytest.mark.kind("21")
def test_a_start_is_only_late_in_a_run_whose_length_is_stated() -> None:
    assert codes([SWA(start="11ba")]) == ["empty-window"]
    assert codes([SWA(start="9ba")]) == []
    assert codes([SWA(start="11ba")], max_duration=None) == []


@pytest.mark.kind("21")
def test_an_order_of_two_that_never_act_on_one_batch_is_refused() -> None:
    early, late = CutOut(end="3ba"), CutOut(id="late", fill=1.0, start="3ba", after="cutout")
    assert codes([early, late]) == ["wish-impossible"]
    assert codes([early, late.model_copy(update={"start": cp.Duration.parse("2ba")})]) == []
    # An evaluation is outside of batches, where no schedule keeps two hooks apart.
    swap = EMA(id="one", end="3ba", after="other")
    found = codes([swap, SWA(id="other", start="3ba")])
    assert found == ["two-owners"]
