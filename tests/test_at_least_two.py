"""What is per seed, per sample, per batch or per setting, tested with at least two that differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import counterpoint as cp
from counterpoint import IMAGES
from counterpoint.algorithms import CutMix, MixUp
from counterpoint.core.check.commutation import edits_commute
from counterpoint.losses import resolve_loss

FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 5}
SPEC = cp.BatchSpec(16, (1, 8, 8), 5)


def codes(*listed: Any, **facts: Any) -> list[str]:
    try:
        cp.compose(listed, **FACTS | facts)
    except cp.CompositionError as error:
        return [fault.code for fault in error.faults]
    return []


@pytest.mark.kind("30")
def test_every_seed_every_step_and_every_id_has_draws_of_its_own() -> None:
    drawn = [
        cp.compose([MixUp(id=name)], seed=seed, **FACTS).draws(step, SPEC)[name]
        for seed in (0, 1, 2, 2**40)
        for step in (0, 1)
        for name in ("one", "other")
    ]
    assert len({tuple(mixing.perm.tolist()) for mixing in drawn}) == len(drawn) == 16
    assert len({float(mixing.lam) for mixing in drawn}) == 16


@pytest.mark.kind("30")
@pytest.mark.parametrize("ignored", [-100, 2, 4, 255])
@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 3.0, 0.5, 4.0])])
def test_the_losses_of_samples_leave_out_the_positions_that_the_loss_ignores(
    ignored: int, weight: torch.Tensor | None
) -> None:
    torch.manual_seed(17)
    outputs, targets = torch.randn(3, 5, 4), torch.tensor([[0, 1, 3, 3], [0, 3, 1, 0], [1, 1, 1, 1]])
    targets[0, 1] = targets[0, 3] = targets[1, 2] = ignored
    spec = resolve_loss(nn.CrossEntropyLoss(weight=weight, ignore_index=ignored))
    assert spec is not None
    assert spec.each is not None
    found = spec.each(outputs, targets)
    for sample in range(3):
        total, counted = 0.0, 0
        for position in range(4):
            label = int(targets[sample, position])
            if label == ignored:
                continue
            factor = 1.0 if weight is None else float(weight[label])
            total -= factor * float(outputs[sample, :, position].double().log_softmax(0)[label])
            counted += 1
        assert float(found[sample]) == pytest.approx(total / counted, rel=1e-5)


@pytest.mark.kind("30")
def test_mixers_that_first_meet_late_are_found() -> None:
    assert codes(MixUp(every=5), CutMix(start="3ba", every=7)) == ["two-mixers"]  # first at batch 10
    assert codes(MixUp(every=5), CutMix(start="3ba", every=7, end="11ba")) == ["two-mixers"]
    assert codes(MixUp(every=5), CutMix(start="3ba", every=7, end="10ba")) == []
    assert codes(MixUp(every=97), CutMix(start="96ba", every=101)) == ["two-mixers"]


@pytest.mark.kind("30")
def test_labels_above_1_are_refused_wherever_they_stand() -> None:
    plan = cp.compose(["mixup"], task="multilabel", num_classes=3)
    inputs, labels = torch.rand(4, 1, 8, 8), torch.tensor([[0.0, 1.0, 0.5]]).repeat(4, 1)
    plan(inputs, labels, step=0)
    for place in ((0, 0), (3, 2)):
        wrong = labels.clone()
        wrong[place] = 1.5
        with pytest.raises(cp.DataError, match=r"at most 1; found 1\.5"):
            plan(inputs, wrong, step=1)


@pytest.mark.kind("30")
def test_equal_fills_commute_only_where_neither_moves_values() -> None:
    fill = cp.Law.FILL.edit(cp.Field.INPUTS, IMAGES)
    moving = replace(fill, acts=frozenset({cp.Axis.POSITION}))
    mixing = replace(fill, acts=frozenset({cp.Axis.SAMPLE}))
    assert edits_commute(fill, fill)
    assert not edits_commute(fill, replace(fill, fills=1.0))
    for other in (moving, mixing):
        assert not edits_commute(fill, other)
        assert not edits_commute(other, fill)
        assert not edits_commute(other, other)


@pytest.mark.kind("30")
def test_the_defaults_of_the_mixers_are_those_of_their_papers() -> None:
    assert MixUp() == MixUp(alpha=0.2)
    assert CutMix() == CutMix(alpha=1.0)
    step = {alpha: cp.compose([MixUp(alpha=alpha)], **FACTS).draws(3, SPEC)["mixup"] for alpha in (0.2, 1.0)}
    default = cp.compose(["mixup"], **FACTS).draws(3, SPEC)["mixup"]
    assert torch.equal(torch.as_tensor(default.lam), torch.as_tensor(step[0.2].lam))
    assert not torch.equal(torch.as_tensor(default.lam), torch.as_tensor(step[1.0].lam))
