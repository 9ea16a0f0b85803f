"""Whatever a plan can know of shapes is checked at the first batch: targets, outputs, and the number of classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp

pytestmark = pytest.mark.kind("7")

X = torch.rand(6, 2, 5, 5)


def plan(task: str = "multiclass", loss: Any = None, **stated: Any) -> cp.Plan:
    stated = {"num_classes": 3, "algorithms": [], **stated}
    return cp.compose(stated.pop("algorithms"), task=task, loss=loss or nn.CrossEntropyLoss(), **stated)


def one_hot(indices: Tensor, classes: int) -> Tensor:
    return nn.functional.one_hot(indices, classes).movedim(-1, 1)


@pytest.mark.parametrize("algorithms", [[], ["cutmix"]], ids=["indices", "dense"])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.NLLLoss()], ids=type)
def test_a_model_with_another_number_of_outputs_is_found(algorithms: list[str], loss: nn.Module) -> None:
    composed = plan(loss=loss, algorithms=algorithms)
    _, y = composed(X, torch.arange(6) % 3, step=0)
    for width in (1, 2, 4, 5):
        outputs = torch.zeros(6, width).log_softmax(1)
        for _ in range(4):  # not in the first calls alone
            with pytest.raises(
                cp.DataError, match=rf"shape \(N, 3, \.\.\.\), and these have \(6, {width}\).*num_classes"
            ):
                composed.loss(outputs, y)
    composed.loss(torch.zeros(6, 3).log_softmax(1), y)


def test_labels_and_outputs_are_compared_too() -> None:
    composed = plan("multilabel", nn.BCEWithLogitsLoss())
    with pytest.raises(cp.DataError, match=r"\(N, 3, \.\.\.\), and these have \(6, 4\)"):
        composed.loss(torch.zeros(6, 4), torch.zeros(6, 4))
    composed.loss(torch.zeros(6, 3), torch.zeros(6, 3))


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        ((6, 3), (5,), r"\(6,\)"),
        ((6, 3), (6, 1), r"\(6,\)"),
        ((6, 3, 4, 4), (6, 5, 4), r"\(6, 4, 4\)"),
        ((6, 3, 4, 4), (6,), r"\(6, 4, 4\)"),
    ],
)
def test_index_targets_have_the_axes_of_the_outputs_without_the_classes(
    outputs: tuple[int, ...], targets: tuple[int, ...], expected: str
) -> None:
    for task in ("multiclass", "segmentation"):
        with pytest.raises(cp.DataError, match=rf"takes targets of shape {expected} for outputs of shape"):
            plan(task).loss(torch.zeros(outputs), torch.zeros(targets, dtype=torch.long))


def test_dense_targets_have_the_shape_of_the_outputs() -> None:
    for shape in ((5, 3), (6, 4), (6, 3, 2)):
        with pytest.raises(cp.DataError, match=r"takes targets of shape \(6, 3\)"):
            plan().loss(torch.zeros(6, 3), torch.zeros(shape))


def test_an_index_beyond_the_outputs_is_named_where_no_number_is_stated() -> None:
    composed = plan(num_classes=None)
    composed.loss(torch.zeros(2, 5), torch.tensor([4, -100]))
    for _ in range(4):
        with pytest.raises(cp.DataError, match="target 5 is no class: 5 classes are 0 to 4"):
            composed.loss(torch.zeros(2, 5), torch.tensor([5, 0]))


@pytest.mark.parametrize("outputs", [None, {"logits": torch.zeros(6, 3)}, [1.0], (torch.zeros(6, 3),), "logits", 3])
def test_outputs_that_are_no_tensor_are_named(outputs: Any) -> None:
    for task, loss, y in (
        ("multiclass", nn.CrossEntropyLoss(), torch.arange(6) % 3),
        ("multilabel", nn.BCELoss(), torch.zeros(6, 3)),
        ("regression", nn.MSELoss(), torch.zeros(6, 3)),
    ):
        for _ in range(3):
            with pytest.raises(cp.DataError, match=r"outputs must be a tensor, not"):
                plan(task, loss).loss(outputs, y)


def test_a_loss_of_ones_own_takes_what_it_takes() -> None:
    def own(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return outputs["logits"].sum() + targets.sum()

    composed = plan(loss=own, loss_accepts={"index"})
    assert composed.loss({"logits": torch.ones(1)}, torch.tensor([1, 2])) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithms", [[], ["cutmix"], ["label_smoothing"]], ids=str)
@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.int32])
def test_one_hot_rows_of_integers_are_refused_in_segmentation(algorithms: list[str], kind: torch.dtype) -> None:
    y = torch.randint(2, (6, 5, 5))
    composed = plan("segmentation", algorithms=algorithms, num_classes=2)
    for rows in (one_hot(y, 2), one_hot(y, 2).movedim(1, -1), one_hot(y, 4)):
        with pytest.raises(cp.DataError, match=r"class indices of shape \(N, H, W\), not torch\.\w+ of shape \(6, "):
            composed(X, rows.to(kind), step=0)
    with pytest.raises(cp.DataError, match=r"give.* as indices, targets\.argmax\(1\)|targets\.argmax\(1\)"):
        composed(X, one_hot(y, 2).to(kind), step=0)
    dense, indices = composed(X, one_hot(y, 2).float(), step=0)[1], composed(X, y.to(kind), step=0, repeat=True)[1]
    if algorithms:
        assert torch.equal(dense, indices)


def test_one_hot_rows_are_named_in_classification() -> None:
    with pytest.raises(cp.DataError, match=r"\(N\), not torch\.int64 of shape \(6, 3\).*targets\.argmax\(1\)"):
        plan()(X, one_hot(torch.arange(6) % 3, 3), step=0)
    with pytest.raises(cp.DataError, match="state the task"):
        plan()(X, torch.zeros(6, 2, dtype=torch.long), step=0)


@pytest.mark.parametrize(
    ("task", "shape", "wanted"),
    [
        ("multiclass", (6, 3, 5, 5), r"\(N, C\)"),
        ("multiclass", (6, 3, 1), r"\(N, C\)"),
        ("segmentation", (6, 3), r"\(N, C, H, W\)"),
        ("segmentation", (6, 3, 5), r"\(N, C, H, W\)"),
    ],
)
def test_dense_targets_have_the_axes_of_the_task(task: str, shape: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(cp.DataError, match=rf"dense targets of {task} are {wanted}, not of shape"):
        plan(task)(X, torch.full(shape, 1 / 3), step=0)


def test_segmentation_of_tokens_has_positions_of_its_own() -> None:
    composed = plan("segmentation", inputs="tokens")
    composed(torch.zeros(6, 9, dtype=torch.long), torch.zeros(6, 9, dtype=torch.long), step=0)
    with pytest.raises(cp.DataError, match=r"\(N, positions\)"):
        composed(torch.zeros(6, 9, dtype=torch.long), torch.zeros(6, dtype=torch.long), step=0)


@pytest.mark.parametrize("ignored", [255, -1])
def test_the_ignored_index_of_the_loss_is_a_class_of_no_output(ignored: int) -> None:
    composed = plan(loss=nn.CrossEntropyLoss(ignore_index=ignored))
    outputs = torch.tensor([[2.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    wanted = nn.functional.cross_entropy(outputs[:1], torch.tensor([1]))
    assert torch.equal(composed.loss(outputs, torch.tensor([1, ignored])), wanted)
    with pytest.raises(cp.DataError, match="target -100 is no class"):
        composed.loss(outputs, torch.tensor([1, -100]))
