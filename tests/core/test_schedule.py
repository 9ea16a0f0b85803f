"""When schedules act and meet, compared with counting every batch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import counterpoint as cp
from counterpoint.algorithms import CutMix, CutOut, MixUp
from counterpoint.core.plan.schedule import Schedule

HORIZON = 400
"""Longer than the latest start and two of the longest common rhythms."""


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    end = draw(st.none() | st.integers(0, 60))
    return Schedule(draw(st.integers(0, 30)), end, draw(st.integers(1, 13)))


def lines_run(work: Callable[[], object]) -> int:
    """Count the lines of Python that are run: a walk through the batches of long rhythms would take millions."""
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return note

    before = sys.gettrace()
    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def acting(schedule: Schedule | None) -> list[int]:
    """Count the batches on which a schedule acts, by its definition."""
    if schedule is None:
        return []
    end = HORIZON if schedule.end is None else min(schedule.end, HORIZON)
    return list(range(schedule.start, end, schedule.every))


@pytest.mark.kind("14")
@given(schedules())
def test_a_schedule_covers_what_its_definition_counts(schedule: Schedule) -> None:
    assert [step for step in range(HORIZON) if schedule.covers(step)] == acting(schedule)


@pytest.mark.kind("14")
@given(schedules(), schedules())
def test_two_schedules_meet_where_counting_finds_batches_of_both(first: Schedule, second: Schedule) -> None:
    both = sorted({*acting(first)} & {*acting(second)})
    assert acting(first.meeting(second)) == both
    assert first.meets(second) is bool(both)


@pytest.mark.slow
@pytest.mark.kind("14")
@given(schedules(), schedules(), schedules())
def test_meeting_does_not_depend_on_the_order(first: Schedule, second: Schedule, third: Schedule) -> None:
    def meeting(*members: Schedule) -> Schedule | None:
        found: Schedule | None = Schedule()
        for member in members:
            found = None if found is None else found.meeting(member)
        return found

    assert meeting(first, second, third) == meeting(third, second, first) == meeting(second, first, third)


@pytest.mark.kind("14")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"every": 30_011}, {"every": 30_013}),
        ({"every": 99_991}, {"every": 65_536, "start": "7ba"}),
        ({"every": 2**61 - 1}, {"every": 2**62, "start": "1ba"}),
    ],
)
def test_rhythms_of_any_length_are_compared_at_once(first: dict[str, object], second: dict[str, object]) -> None:
    def verdict(*listed: cp.Algorithm[object]) -> list[str]:
        try:
            cp.compose(listed, task="multiclass", num_classes=3)
        except cp.CompositionError as error:
            return [fault.code for fault in error.faults]
        return []

    mixers = (MixUp.model_validate(first), CutMix.model_validate(second))
    assert verdict(*mixers) == ["two-mixers"]
    apart = (MixUp(every=2**40), CutMix(every=2**41, start="1ba"))
    assert verdict(*apart) == []
    assert lines_run(lambda: verdict(*mixers, CutOut(every=2**31 - 1, start="3ba"))) < 500_000


@pytest.mark.kind("14")
def test_the_last_batch_of_a_window_is_the_one_before_its_end() -> None:
    assert Schedule(every=4).meets(Schedule(start=2, end=9, every=6))
    assert not Schedule(every=4).meets(Schedule(start=2, end=8, every=6))
    assert Schedule(end=9).meeting(Schedule(start=3, end=7)) == Schedule(3, 7)
