"""Draws reach another device in one copy, as they were drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import counterpoint as cp
from counterpoint.algorithms import CutOut, LabelSmoothing, MixUp
from counterpoint.core.run.batch.calls import BoundEdit, Call
from counterpoint.core.run.batch.device_transfer import move_draws, moved


class Crossings(TorchDispatchMode):
    """Counts the operations on tensors of the host that have results elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, found = (
            {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)}
            for tree in ((args, kwargs), result)
        )
        self.count += given == {"cpu"} and found == {"meta"}
        return result


def test_values_shapes_and_dtypes_stay() -> None:
    given = [
        torch.tensor(0.25, dtype=torch.float64),
        torch.arange(7),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.tensor([[True, False]]),
        torch.arange(6.0).view(2, 3).t(),
    ]
    for one, other in zip(given, moved(given, torch.device("cpu")), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
        assert other.data_ptr() % 64 == 0 or other.numel() == 0
    assert moved([], torch.device("cpu")) == []


def test_all_draws_of_a_batch_cross_in_one_copy() -> None:
    shared = (torch.rand(3), torch.arange(3))
    edit = BoundEdit("edit", lambda batch, draws: batch)
    calls = [Call(edit, shared), Call(edit), Call(edit, shared), Call(edit, {"boxes": torch.zeros(2, 4)}, active=False)]
    with Crossings() as crossings:
        there = move_draws(calls, torch.device("meta"))
    assert crossings.count == 1
    assert there[0].draws[0] is there[2].draws[0]  # what two edits share is moved once
    assert [call.active for call in there] == [True, True, True, False]
    assert there[1].draws is None
    assert all(leaf.device.type == "meta" for leaf in tree_leaves([call.draws for call in there]) if leaf is not None)


def test_a_plan_moves_the_draws_of_all_its_methods_at_once() -> None:
    plan = cp.compose(
        [CutOut(), MixUp(), LabelSmoothing()],
        loss=torch.nn.CrossEntropyLoss(),
        task="multiclass",
        num_classes=3,
        contract="off",
    )
    batch = torch.empty(4, 1, 8, 8, device="meta"), torch.empty(4, 3, device="meta")
    with Crossings() as crossings:
        inputs, targets = plan(*batch, step=0)
    assert crossings.count == 1
    assert inputs.device.type == targets.device.type == "meta"
