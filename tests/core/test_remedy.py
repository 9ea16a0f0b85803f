"""A fix that is data removes its fault when it is applied."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, CutMix, CutOut, LabelSmoothing, MixUp, OneOf
from counterpoint.core.check.fixes.changes import apply_changes
from tests.core.methods import Blend, Hole, Normal, Recolor, Scale, Trace


class Across(cp.Algorithm[None], name="across"):
    """Acts across the samples of a forward pass."""

    @cp.around(cp.Event.FORWARD, writes="outputs", whole_batch=True)
    def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield


class Picky(cp.Algorithm[None], name="picky"):
    """Needs the losses of samples, and two of them."""

    min_batch = 2

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX, sample_losses=True)
    def apply(self, batch: cp.Batch, draws: None, losses: Callable[[], Tensor]) -> cp.Batch:
        return batch


def faults_of(algorithms: list[object], facts: dict[str, Any]) -> tuple[cp.Fault, ...]:
    try:
        cp.compose(algorithms, **facts)
    except cp.CompositionError as error:
        return error.faults
    return ()


@pytest.mark.parametrize(
    ("algorithms", "facts", "code"),
    [
        ([MixUp(), CutMix()], {}, "two-mixers"),
        ([MixUp(), OneOf(algorithms=[CutMix()])], {}, "two-mixers"),
        ([LabelSmoothing()], {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}, "double-smoothing"),
        ([LabelSmoothing(id="a"), LabelSmoothing(id="b")], {}, "double-smoothing"),
        ([EMA(id="a"), EMA(id="b")], {}, "two-owners"),
        ([CutOut(), CutOut(length=0.2)], {}, "duplicate-id"),
        ([MixUp(start="5ba", end="5ba")], {}, "empty-window"),
        ([MixUp(after=["nobody"])], {}, "unknown-reference"),
        ([MixUp(after=["mixup"])], {}, "wish-impossible"),
        ([Scale(before=["recolor"]), Recolor(before=["scale"])], {}, "wish-impossible"),
        ([Normal(after=["scale"]), Scale()], {"inputs": "bytes"}, "wish-impossible"),
        ([Trace(after=["scale"]), Scale()], {}, "wish-impossible"),
        ([Scale(), Recolor()], {"strict_order": True}, "ambiguous-order"),
        ([LabelSmoothing()], {"task": "regression", "inputs": "features"}, "task-unsupported"),
        ([CutOut()], {"inputs": "features"}, "needs-unmet"),
        ([OneOf(algorithms=[MixUp(), EMA()])], {}, "branch-hook"),
        ([Normal(p=0.5)], {"inputs": "bytes"}, "conditional-kind"),
        ([OneOf(algorithms=[Recolor(), Blend(id="late")]), Hole(value=1.0)], {}, "branch-order"),
        ([Picky()], {"batch_size": 1}, "batch-too-small"),
        ([Picky()], {}, "no-sample-losses"),
        ([Across()], {"microbatches": 4}, "microbatches"),
    ],
)
def test_applying_the_fix_removes_the_fault(algorithms: list[Any], facts: dict[str, Any], code: str) -> None:
    stated = {"task": "multiclass", "num_classes": 4, **facts}
    (fault, *_) = [fault for fault in faults_of(algorithms, stated) if fault.code == code]
    assert fault.remedies
    mended, restated = apply_changes(algorithms, stated, fault.remedies)
    remaining = [(other.code, other.algorithms) for other in faults_of(mended, restated)]
    assert (fault.code, fault.algorithms) not in remaining


def test_the_event_of_a_clash_is_said() -> None:
    (fault,) = faults_of([EMA(id="a"), EMA(id="b")], {"task": "multiclass"})
    assert fault.event is cp.Event.EVALUATION
    assert "at each evaluation" in str(fault)
