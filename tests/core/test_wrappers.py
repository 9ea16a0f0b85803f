"""The names of tensors that differ by wrappers alone."""

from __future__ import annotations

import pytest

from counterpoint.core.tensors.names import renamed


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("values", "wanted", "expected"),
    [
        ({"module.a": 1, "_orig_mod.b": 2}, ["b", "a"], {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, ["module.a", "module.b"], {"module.a": 1, "module.b": 2}),
        ({"module.a": 1, "module.c": 2}, ["a", "b"], {"a": 1, "module.c": 2}),
        # Two names that are one without wrappers, among the values or the names wanted: nothing is renamed.
        ({"module.a": 1, "a": 2}, ["_orig_mod.a", "b"], {"module.a": 1, "a": 2}),
        ({"_orig_mod.a": 1, "b": 2}, ["module.a", "a"], {"_orig_mod.a": 1, "b": 2}),
    ],
)
def test_values_are_renamed_where_the_names_are_clear(
    values: dict[str, int], wanted: list[str], expected: dict[str, int]
) -> None:
    assert renamed(values, wanted) == expected
