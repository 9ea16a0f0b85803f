"""A batch that is prepared for evaluation passes the steps that change kinds, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, LabelSmoothing, MixUp
from tests.core.methods import Blend, Hole, Normal, check

BYTES = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)


def test_only_changes_of_kind_run() -> None:
    plan = check([Hole(), Blend(), Normal()], inputs=cp.BYTES)
    inputs, targets = plan.prepare(BYTES, torch.tensor([0, 3, 1]))
    assert torch.equal(inputs, BYTES / 127.5 - 1)
    assert torch.equal(targets, torch.eye(4)[[0, 3, 1]])


def test_where_no_kind_changes_the_tensors_of_the_user_come_back() -> None:
    inputs, targets = torch.rand(3, 1, 4, 4), torch.tensor([0, 3, 1])
    prepared = check([Hole()]).prepare(inputs, targets)
    assert prepared[0] is inputs
    assert prepared[1] is targets


def test_hooks_do_not_stand_in_its_way() -> None:
    plan = cp.compose([EMA(), MixUp(), LabelSmoothing()], task="multiclass", num_classes=4)
    inputs = torch.rand(3, 1, 4, 4)
    assert plan.prepare(inputs, torch.tensor([0, 3, 1]))[0] is inputs


def _dense_only(outputs: Tensor, targets: Tensor) -> Tensor:
    return -(targets * outputs.log_softmax(1)).sum(1).mean()


def test_targets_are_what_the_loss_takes() -> None:
    targets = torch.tensor([2, 0])
    for loss, accepts, dense in (
        (nn.CrossEntropyLoss(), None, False),
        (_dense_only, {"dense"}, True),
        (_dense_only, {"index", "dense"}, False),
    ):
        plan = cp.compose([], loss=loss, loss_accepts=accepts, task="multiclass", num_classes=3)
        prepared = plan.prepare(torch.zeros(2, 1, 2, 2), targets)[1]
        assert prepared.tolist() == ([[0, 0, 1], [1, 0, 0]] if dense else [2, 0])


def test_a_batch_that_is_not_what_was_stated_is_refused() -> None:
    with pytest.raises(cp.DataError, match="cannot have dtype"):
        check([Normal()], inputs=cp.BYTES).prepare(BYTES.float(), torch.tensor([0, 3, 1]))
    with pytest.raises(cp.DataError, match="is no class"):
        check([Normal()], inputs=cp.BYTES).prepare(BYTES, torch.tensor([0, 4, 1]))
