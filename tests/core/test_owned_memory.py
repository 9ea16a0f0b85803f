"""Which memory a step may write to: what a step before it has made, or what the caller donates."""

from __future__ import annotations

import pytest
import torch

import counterpoint as cp
from tests.algorithms.batches import images, plan_for, targets

pytestmark = pytest.mark.kind("30")

SEEN: list[bool] = []


class Giving(cp.Algorithm[None], name="giving"):
    """Gives new inputs, or a view of those that there are."""

    view: bool = False

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs[:] if self.view else batch.inputs * 2)


class Seeing(cp.Algorithm[None], name="seeing"):
    """Notes whether it may write to the inputs."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RECOLOR)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        SEEN.append(batch.writable)
        return batch


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("view", [False, True])
def test_a_step_may_write_to_new_or_donated_inputs_that_autograd_does_not_hold(
    view: bool, donate: bool, tracked: bool
) -> None:
    SEEN.clear()
    plan = plan_for([Giving(view=view), Seeing(after=["giving"])], contract="off")
    inputs = images(4)
    with torch.enable_grad():
        given = inputs * torch.ones((), requires_grad=True) if tracked else inputs
        plan(given, targets(4), step=0, donate=donate)
    assert [not tracked and (donate or not view)] == SEEN
