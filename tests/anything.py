"""Any Python object, for tests of what a public function does with arguments that it cannot take."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

import counterpoint as cp
from counterpoint import DENSE, IMAGE
from counterpoint.algorithms import EMA, MixUp

__all__ = ["anything", "objects"]


class Rude:
    """An object that raises at whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


class Seven:
    """An integer by its ``__index__`` alone."""

    def __index__(self) -> int:
        return 7


LOOP: list[Any] = ["mixup"]
LOOP.append(LOOP)
KNOT: dict[str, Any] = {"name": "one_of"}
KNOT["algorithms"] = [KNOT, KNOT, KNOT]
KNOT["weights"] = KNOT


def function(outputs: Any, targets: Any) -> Any:
    return outputs


OBJECTS: list[Any] = [
    None,
    True,
    np.True_,
    0,
    -1,
    3,
    10**5000,
    Seven(),
    np.int64(10),
    torch.tensor(4),
    torch.tensor(True),
    2.5,
    9.0,
    float("nan"),
    float("inf"),
    np.float32(1),
    1j,
    Fraction(1, 2),
    "",
    "mixup",
    "one_of",
    "10",
    "10ep",
    "multiclass",
    "image",
    "mean",
    "none",
    "cross_entropy",
    "\0",
    "１ep",
    b"mixup",
    bytearray(b"mixup"),
    [],
    (),
    {},
    set(),
    frozenset({"dense"}),
    {"image"},
    ["mixup"],
    ("mixup", "cutmix"),
    [None, 3],
    [["mixup"]],
    {"name": "mixup"},
    {"name": "mixup", "alpha": -1, 3: 4},
    {"name": "one_of", "algorithms": "mixup"},
    {"name": 3},
    {"name": "focal", "gamma": "a"},
    {3: "mixup"},
    LOOP,
    KNOT,
    [KNOT],
    range(3),
    iter(["mixup"]),
    (name for name in ["mixup"]),
    object(),
    Rude(),
    [Rude()],
    {"name": "mixup", "alpha": Rude()},
    type,
    int,
    MixUp,
    MixUp(),
    [EMA()],
    len,
    function,
    lambda: None,
    nn.Linear(2, 2),
    nn.CrossEntropyLoss,
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(weight=torch.ones(7)),
    nn.CrossEntropyLoss(reduction="median"),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    nn.MSELoss(),
    torch.zeros(0),
    torch.zeros(2, 3),
    torch.zeros(2, 3, device="meta"),
    torch.zeros(3, dtype=torch.int64),
    torch.eye(3).to_sparse(),
    torch.float32,
    torch.device("cpu"),
    np.zeros(3),
    np.array("a"),
    np.array([None, "a"], dtype=object),
    DENSE,
    IMAGE,
    {DENSE},
    cp.Law.CONVEX,
    cp.Event.STEP,
    cp.Duration.parse("10ep"),
    cp.MIXING,
    ValueError("a"),
]


def of_number(number: int) -> Any:
    return OBJECTS[number]


objects = st.integers(0, len(OBJECTS) - 1).map(of_number)  # by number, since not all of them can be written out
anything = st.recursive(
    objects | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)
