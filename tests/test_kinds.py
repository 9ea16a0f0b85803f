"""Each kind of fault in tests/kinds.md is held by some test, and each mark names a kind of that table."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
KINDS = re.findall(r"^\| ([0-9]+[a-z]?) \|", (TESTS / "kinds.md").read_text(encoding="utf-8"), re.MULTILINE)


@cache
def _marks() -> dict[str, set[str]]:
    """Return, for each number in a ``pytest.mark.kind("…")``, the files that carry it."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in set(TESTS.rglob("test_*.py")) - {Path(__file__)}:
        for number in re.findall(r"pytest\.mark\.kind\((.*?)\)", path.read_text(encoding="utf-8")):
            found[ast.literal_eval(number)].add(path.name)
    return found


@pytest.mark.parametrize("number", KINDS)
def test_each_kind_is_held_by_a_test(number: str) -> None:
    assert _marks()[number], f'mark the tests that hold kind {number}: @pytest.mark.kind("{number}")'


def test_each_mark_names_a_kind() -> None:
    assert set(_marks()) <= set(KINDS)
