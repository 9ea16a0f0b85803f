"""The laws, over random compositions of every registered method."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import counterpoint as cp
from counterpoint.core.faults import CODES
from tests.laws.case import Composition
from tests.laws.laws import hold
from tests.laws.mistakes import MISTAKES, NOT_BY_A_LIST
from tests.laws.reference import reference_of
from tests.laws.settings import legal, registered, registered_losses
from tests.laws.strategy import KINDS, compositions
from tests.laws.tally import LAWS, Tally

BROKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, Warning)
"""What is raised where a law does not hold: by the law itself, or by what was to run."""


def run_laws(cases: int) -> Tally:
    """Hold so many random cases to the laws, and count what became of them; whatever is raised is a violation."""
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
        try:
            hold(case, tally)
        except BROKEN as error:
            tally.violations.append(f"composition({case.number}): {type(error).__name__}: {error}")

    run: Callable[[], None] = check
    run()
    return tally


def check_richness(tally: Tally, *, least: float) -> None:
    """Check that the accepted cases are long, and hold everything that there is in a share of at least ``least``."""
    assert not tally.violations, str(tally)
    assert tally.accepted >= 0.6 * (tally.accepted + tally.refused), str(tally)
    assert tally.lengths >= 3 * tally.accepted, str(tally)
    there = {
        "method": registered(),
        "loss": [*registered_losses(), "none"],
        "task": ["multiclass", "segmentation", "multilabel", "regression"],
        "inputs": KINDS,
        "dtype": ["float64", "float32", "bfloat16", "float16", "uint8"],
        "batch size": map(str, range(1, 6)),
        "what else it holds": tally.shares["what else it holds"],
    }
    rare = {
        (what, name)
        for what, names in there.items()
        for name in names
        if tally.shares[what][name] < least * tally.accepted
    }
    assert not rare, f"{rare}\n{tally}"
    assert tally.compared.keys() == LAWS.keys(), f"{LAWS.keys() - tally.compared.keys()} never happened"
    assert min(tally.compared.values()) > 0.05 * tally.accepted, str(tally)


def test_every_code_has_a_mistake_that_causes_it() -> None:
    assert MISTAKES.keys() == CODES.keys() - NOT_BY_A_LIST


class Odd(cp.Algorithm[None], name="odd"):
    """A plugin's method, of which nobody said what its setting may be, or what it does to targets."""

    table: dict[str, int]

    @cp.transform(targets=cp.MIXABLE, law=cp.Law.REDISTRIBUTE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch


def test_a_new_method_is_drawn_or_the_suite_says_what_it_must_be_told() -> None:
    with pytest.raises(AssertionError, match=r"say in SPECIAL what odd\.table may be"):
        legal(Random(0), "odd", Odd)
    with pytest.raises(AssertionError, match="say here by what formula odd edits targets"):
        reference_of(Odd(table={}), 1, numpy.zeros(1))


@pytest.mark.slow
def test_the_laws_hold() -> None:
    check_richness(run_laws(300), least=0.01)


@pytest.mark.long
def test_the_laws_hold_for_very_many() -> None:
    tally = run_laws(20_000)
    print(f"\n{tally}")  # pytest -rP shows it
    check_richness(tally, least=0.02)
    assert MISTAKES.keys() <= tally.codes.keys()
