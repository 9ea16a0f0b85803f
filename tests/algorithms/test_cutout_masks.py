"""CutOut on segmentation masks: left as they are, or ignored inside the holes, exactly there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint.algorithms import CutMix, CutOut, LabelSmoothing, MixUp, Normalize, OneOf
from tests.algorithms.batches import CLASSES, SHAPE, bits, dense, images, plan_for, run, targets

IGNORING = (
    CutOut(masks="ignore"),
    CutOut(masks="ignore", length=0.3, num_holes=3),
    CutOut(masks="ignore", per_sample=False, fill=0.5),
)


def hidden(boxes: Tensor, size: int) -> np.ndarray:
    """Return which pixels lie in a hole, (N, H, W)."""
    found = np.zeros((size, *SHAPE[1:]), dtype=bool)
    for i in range(size):
        for left, top, right, bottom in boxes[i if len(boxes) > 1 else 0].tolist():
            for row in range(top, bottom):
                for column in range(left, right):
                    found[i, row, column] = True
    return found


@pytest.mark.parametrize("method", IGNORING)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_inside_the_holes_become_zero_and_no_others(method: CutOut, size: int) -> None:
    plan = plan_for([method], "segmentation", contract="always")
    for given in (targets(size, "segmentation", ignored=True), targets(size, "segmentation", dense=True)):
        for step in range(4):
            x = images(size)
            edited_x, edited_y, draws = run(plan, x, given, step)
            holes = hidden(draws["cutout"], size)
            wanted = dense(given)
            wanted[np.broadcast_to(holes[:, None], wanted.shape)] = 0
            assert np.array_equal(edited_y.double().numpy(), wanted)
            filled = x.double().numpy().copy()
            filled[np.broadcast_to(holes[:, None], filled.shape)] = method.fill
            assert np.array_equal(edited_x.double().numpy(), filled)


@pytest.mark.parametrize("options", [{}, {"weight": torch.tensor([1.0, 2.0, 0.5, 3.0]), "label_smoothing": 0.1}])
def test_the_loss_ignores_exactly_those_positions(options: dict[str, object]) -> None:
    loss = nn.CrossEntropyLoss(**options).double()
    plan = plan_for([CutOut(masks="ignore")], "segmentation", loss=loss)
    logits = torch.randn(5, CLASSES, *SHAPE[1:], dtype=torch.float64, requires_grad=True)
    given = targets(5, "segmentation", ignored=True)
    _, edited, draws = run(plan, images(5), given, 2)
    indices = torch.where(torch.from_numpy(hidden(draws["cutout"], 5)), -100, given)
    ours, theirs = plan.loss(logits, edited), loss(logits, indices)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    mine, other = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (ours, theirs))
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)
    assert not mine[(indices == -100)[:, None].expand_as(mine)].any()


def test_kept_masks_are_left_alone_and_stay_class_indices() -> None:
    plan = plan_for([CutOut()], "segmentation", contract="always")
    given = targets(5, "segmentation")
    assert plan(images(5), given, step=0)[1] is given
    assert plan.order == ("cutout",)


def test_ignoring_has_a_meaning_for_segmentation_alone() -> None:
    for task in ("multiclass", "multilabel", "regression"):
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([CutOut(masks="ignore")], task)
        assert "task-unsupported" in [fault.code for fault in caught.value.faults]
        (fault,) = [fault for fault in caught.value.faults if fault.code == "task-unsupported"]
        assert fault.message == f"cutout as it is set has no meaning for {task}; it has for segmentation"
        plan_for([CutOut()], task)


def test_a_loss_of_class_indices_alone_is_refused() -> None:
    with pytest.raises(cp.CompositionError) as caught:
        plan_for([CutOut(masks="ignore")], "segmentation", loss=nn.functional.nll_loss, loss_accepts={"index"})
    assert [fault.code for fault in caught.value.faults] == ["loss-targets"]


def test_masks_must_lie_on_the_images() -> None:
    plan = plan_for([CutOut(masks="ignore")], "segmentation")
    for height, width in ((2, 2), (5, 6), (4, 7)):
        wanted = rf"masks of shape \({height}, {width}\) do not lie on images of shape \(5, 7\)"
        with pytest.raises(cp.DataError, match=wanted):
            plan(images(3), torch.zeros(3, height, width, dtype=torch.int64), step=0)
    with pytest.raises(cp.DataError, match=r"targets has 4 axes, not the shape \(3, 4\)"):
        CF.ignore_holes(torch.zeros(3, 4), torch.zeros(1, 1, 4, dtype=torch.int64))


def test_nothing_of_the_users_is_edited() -> None:
    plan = plan_for([CutOut(masks="ignore")], "segmentation")
    for donate in (False, True):
        x, y = images(5), targets(5, "segmentation", dense=True)
        before = bits(x), bits(y)
        run(plan, x, y, donate=donate)
        assert bits(y) == before[1]
        assert donate or bits(x) == before[0]


def test_smoothing_comes_first_and_mixing_after_whatever_the_list() -> None:
    methods = [CutOut(masks="ignore"), LabelSmoothing(), MixUp()]
    x, y = images(5), targets(5, "segmentation", ignored=True)
    results = set()
    for listed in (methods, methods[::-1], [methods[1], methods[0], methods[2]]):
        plan = plan_for(listed, "segmentation", contract="always")
        assert plan.order == ("dense_targets", "label_smoothing", "cutout", "mixup")
        results.add(tuple(bits(part) for part in plan(x, y, step=1)))
    assert len(results) == 1


def test_holes_of_a_whole_batch_commute_with_mixing() -> None:
    cut = CutOut(masks="ignore", per_sample=False)
    x, y = images(5, torch.float64), targets(5, "segmentation", ignored=True)
    for mixer in (MixUp(), CutMix()):
        outcomes = []
        for wish in ({"before": "cutout"}, {"after": "cutout"}):
            wishing = type(mixer)(**wish)
            plan = plan_for([wishing, cut], "segmentation", contract="always")
            outcomes.append(plan(x, y, step=1))
        for one, other in zip(*outcomes, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        free = plan_for([mixer, cut], "segmentation")
        assert {pair.rule for pair in free.pairs} <= {"commuting"}


def test_in_a_choice_and_with_the_rest() -> None:
    plan = plan_for(
        [
            OneOf(algorithms=[CutOut(masks="ignore"), CutMix()]),
            Normalize(mean=[0.5], std=[0.25]),
            LabelSmoothing(),
            CutOut(id="another", masks="ignore", length=0.2),
        ],
        "segmentation",
        inputs="bytes",
        model_inputs={"normalized"},
        contract="always",
    )
    for step in range(6):
        plan(images(5, kind="bytes"), targets(5, "segmentation", ignored=True), step=step)
