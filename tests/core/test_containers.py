"""What containers hold, by keys, fields or positions."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

from counterpoint.core.containers import contents


class Pair(NamedTuple):
    """A tuple with names."""

    one: int
    other: Any


class Empty(NamedTuple):
    """A tuple with no places."""


@dataclass
class Parts:
    """A dataclass whose last field is made by itself."""

    one: int
    made: int = field(default=3, init=False)


@pytest.mark.parametrize(
    ("container", "wanted"),
    [
        ({"a": 1, 2: "b"}, {"a": 1, 2: "b"}),
        (OrderedDict(x=1), {"x": 1}),
        (UserDict(x=1), {"x": 1}),
        (MappingProxyType({"x": 1}), {"x": 1}),
        ((5, "b"), {0: 5, 1: "b"}),
        ([5, [6]], {0: 5, 1: [6]}),
        (Pair(1, (2,)), {"one": 1, "other": (2,)}),
        (Empty(), {}),
        ((), {}),
        ([], {}),
        ({}, {}),
        (Parts(1), {"one": 1, "made": 3}),
    ],
    ids=repr,
)
def test_what_containers_hold(container: object, wanted: dict[Any, Any]) -> None:
    assert contents(container) == wanted
    assert list(contents(container) or ()) == list(wanted)


@pytest.mark.parametrize("value", ["text", b"bytes", 3, None, {1, 2}, range(3), Parts, Pair, torch.ones(2)], ids=str)
def test_other_values_hold_nothing(value: object) -> None:
    assert contents(value) is None


def test_what_is_returned_is_a_dict_of_its_own() -> None:
    given = {"a": 1}
    held = contents(given)
    assert held is not None
    held["b"] = 2
    assert given == {"a": 1}
