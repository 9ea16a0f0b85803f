"""The laws, over random compositions of every registered method."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.laws.laws import Tally, hold
from tests.laws.strategy import Composition, compositions


def run_laws(cases: int) -> Tally:
    """Hold so many random cases to the laws, and count what became of them."""
    tally = Tally()

    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(compositions())
    def check(case: Composition) -> None:
        hold(case, tally)

    run: Callable[[], None] = check
    run()
    return tally


def test_the_laws_hold() -> None:
    tally = run_laws(300)
    assert tally.accepted >= 60, str(tally)
    assert tally.refused >= 30, str(tally)


@pytest.mark.slow
def test_the_laws_hold_for_very_many(capsys: pytest.CaptureFixture[str]) -> None:
    tally = run_laws(20_000)
    with capsys.disabled():
        print(f"\n{tally}")
    assert tally.accepted >= 4_000
