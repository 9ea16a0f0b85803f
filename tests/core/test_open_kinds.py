"""Kinds are open: a plugin brings its own, with a task and a method, and others are refused by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import counterpoint as cp
from counterpoint.algorithms import CutOut, LabelSmoothing, MixUp

BOXES = cp.Kind("boxes", cp.Field.TARGETS, "corners of one object, float, (N, 4), XYXY")
DETECTION = cp.Task("detection", BOXES, classes=False)


class Mirror(cp.Algorithm[None], name="mirror"):
    """Turn images and boxes left to right."""

    @cp.transform(inputs=cp.IMAGES, targets=BOXES, law=cp.Law.DISPLACE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        left, top, right, bottom = batch.targets.unbind(1)
        width = batch.inputs.shape[-1]
        mirrored = torch.stack([width - right, top, width - left, bottom], 1)
        return batch.with_inputs(batch.inputs.flip(-1)).with_targets(mirrored)


def distance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().mean()


def compose(*algorithms: cp.Algorithm[Any]) -> cp.Plan:
    return cp.compose(algorithms, task=DETECTION, loss=distance, loss_accepts={BOXES}, contract="always")


def test_a_kind_of_ones_own_is_planned_and_run() -> None:
    plan = compose(CutOut(length=0.25), Mirror())
    assert plan.order == ("mirror", "cutout")
    boxes = torch.tensor([[1.0, 0.0, 3.0, 2.0]])
    _, mirrored = plan(torch.rand(1, 1, 8, 8), boxes, step=0)
    assert mirrored.tolist() == [[5.0, 0.0, 7.0, 2.0]]
    assert plan.loss(mirrored, mirrored) == 0
    assert "boxes" in plan.explain()


@pytest.mark.slow
@pytest.mark.parametrize("stranger", [MixUp(), LabelSmoothing()])
def test_methods_for_other_kinds_are_refused_by_the_name_of_the_kind(stranger: cp.Algorithm[Any]) -> None:
    with pytest.raises(cp.CompositionError) as caught:
        compose(Mirror(), stranger)
    (fault,) = [fault for fault in caught.value.faults if fault.code == "needs-unmet"]
    assert "gets boxes" in fault.message
    assert stranger.name in fault.algorithms


def test_a_loss_for_another_kind_is_refused() -> None:
    with pytest.raises(cp.CompositionError) as caught:
        cp.compose([Mirror()], task=DETECTION, loss=torch.nn.MSELoss())
    assert [fault.code for fault in caught.value.faults] == ["loss-targets"]
    assert "boxes" in caught.value.faults[0].message
