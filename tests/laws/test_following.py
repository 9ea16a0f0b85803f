"""Every fix can be followed: fault after fault, until the composition is right."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from counterpoint.core import Terms
from tests.laws.following import faulty, follow

COMMON = {"two-mixers", "wish-impossible", "needs-unmet", "loss-targets", "empty-window", "duplicate-id"}


def followed(first: int, count: int, terms: Terms) -> Counter[str]:
    """Follow the fixes of so many faulty compositions; all that fail are listed."""
    met: Counter[str] = Counter()
    failed = []
    for number in range(first, first + count):
        listed, facts = faulty(number, terms)
        try:
            met += follow(listed, facts, Random(number), terms)
        except (AssertionError, LookupError, TypeError, ValueError) as error:
            failed.append(f"faulty({number}): {type(error).__name__}: {error}")
    assert not failed, "\n".join(failed)
    return met


@pytest.mark.slow
@pytest.mark.kind("8")
@pytest.mark.kind("28")
@pytest.mark.parametrize("terms", Terms)
def test_following_fixes_leads_to_a_right_composition(terms: Terms) -> None:
    met = followed(0, 150, terms)
    assert met.keys() >= COMMON
    assert met["decided by a person"] < 15


@pytest.mark.long
@pytest.mark.kind("8")
@pytest.mark.kind("28")
@pytest.mark.parametrize("terms", Terms)
def test_following_many_more_fixes_leads_to_right_compositions(terms: Terms) -> None:
    assert len(followed(1000, 200, terms)) > 15
