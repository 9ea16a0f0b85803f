"""Class indices under a loss on independent labels: each class is a label, and mixed classes are mixed labels."""

from __future__ import annotations

import json
import math
from itertools import permutations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint import DENSE, INDEX, MULTI_HOT, REAL, Field
from counterpoint.losses import (
    BinaryFocalLoss,
    ThresholdedBCEWithLogitsLoss,
    binary_cross_entropy_with_logits,
    resolve_loss,
)

pytestmark = pytest.mark.kind("9")

CLASSES = 4
FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": CLASSES, "inputs": "normalized"}
MIXERS = {"name": "one_of", "algorithms": ["mixup", "cutmix"]}
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
INDICES = torch.tensor([0, 1, 2, 3, 3, 1])


def by_hand(logits: Tensor, labels: Tensor, weight: Tensor, positive: Tensor, reduction: str) -> tuple[Any, Tensor]:
    """Return binary cross-entropy and the gradient of its sum or mean, number by number, in Python's floats."""
    rows, columns = logits.shape
    losses = [[0.0] * columns for _ in range(rows)]
    slopes = [[0.0] * columns for _ in range(rows)]
    for n in range(rows):
        for c in range(columns):
            x, y, w, v = (float(value) for value in (logits[n, c], labels[n, c], weight[c], positive[c]))
            p = 1 / (1 + math.exp(-x))
            losses[n][c] = -w * (v * y * math.log(p) + (1 - y) * math.log(1 - p))
            slopes[n][c] = w * ((1 - y) * p - v * y * (1 - p))
    total, divisor = math.fsum(map(math.fsum, losses)), rows * columns if reduction == "mean" else 1
    value = losses if reduction == "none" else total / divisor
    return torch.tensor(value, dtype=torch.float64), torch.tensor(slopes, dtype=torch.float64) / divisor


def smoothed_row(index: int, smoothing: float) -> list[float]:
    """Write a class as timm does: the off value s / C, and 1 - s + s / C at the class."""
    off = smoothing / CLASSES
    return [1 - smoothing + off if c == index else off for c in range(CLASSES)]


factors = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0]), min_size=CLASSES, max_size=CLASSES)


@pytest.mark.slow
@settings(deadline=None)
@given(
    indices=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=6),
    lam=st.floats(0, 1),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    weight=st.none() | factors,
    positive=st.none() | factors,
    reduction=st.sampled_from(["none", "sum", "mean"]),
    seed=st.integers(0, 99),
)
def test_the_loss_is_that_of_mixed_rows(
    indices: list[int],
    lam: float,
    smoothing: float,
    weight: list[float] | None,
    positive: list[float] | None,
    reduction: str,
    seed: int,
) -> None:
    class Mix(cp.Algorithm[None], name="mix"):
        """Mixes each sample with the next by a stated share."""

        @cp.transform(targets={DENSE, MULTI_HOT}, law=cp.Law.CONVEX)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            targets = batch.targets.double()
            return batch.with_targets(lam * targets + (1 - lam) * targets.roll(-1, 0))

    tensors = [None if given is None else torch.tensor(given, dtype=torch.float64) for given in (weight, positive)]
    loss = nn.BCEWithLogitsLoss(tensors[0], reduction=reduction, pos_weight=tensors[1])
    smooth = [cp.algorithms.LabelSmoothing(smoothing=smoothing)] if smoothing else []
    plan = cp.compose([Mix(), *smooth], loss=loss, **FACTS)
    _, targets = plan(torch.zeros(len(indices), 1, 8, 8), torch.tensor(indices), step=0)
    rows = [smoothed_row(index, smoothing) for index in indices]
    mixed = [
        [lam * a + (1 - lam) * b for a, b in zip(row, rows[(n + 1) % len(rows)], strict=True)]
        for n, row in enumerate(rows)
    ]
    wanted = torch.tensor(mixed, dtype=torch.float64)
    torch.testing.assert_close(targets.double(), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(targets.double().sum(1), torch.ones(len(indices), dtype=torch.float64))

    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(len(indices), CLASSES, generator=generator, dtype=torch.float64)).requires_grad_()
    ones = torch.ones(CLASSES)
    value, slope = by_hand(
        logits.detach(),
        targets,
        ones if tensors[0] is None else tensors[0],
        ones if tensors[1] is None else tensors[1],
        reduction,
    )
    got = plan.loss(logits, targets)
    torch.testing.assert_close(got, value, rtol=1e-9, atol=1e-12)
    got.sum().backward()
    torch.testing.assert_close(logits.grad, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "loss",
    ["bce", "binary_focal", nn.BCEWithLogitsLoss(), nn.BCELoss(), BinaryFocalLoss(), ThresholdedBCEWithLogitsLoss(0.2)],
    ids=str,
)
def test_without_methods_indices_become_rows_and_then_labels(loss: Any) -> None:
    plan = cp.compose([], loss=loss, **FACTS)
    assert plan.order == ("dense_targets", "multi_hot_targets")
    _, targets = plan(IMAGES, INDICES, step=0)
    assert torch.equal(targets, CF.dense_targets(INDICES, CLASSES))
    assert torch.equal(plan.prepare(IMAGES, INDICES)[1], targets)


def test_labels_come_last_in_every_order_of_the_list() -> None:
    for listed in permutations([MIXERS, "label_smoothing", "cutout"]):
        plan = cp.compose(listed, loss="bce", **FACTS)
        assert plan.order == ("dense_targets", "label_smoothing", "cutout", "one_of", "multi_hot_targets")
        smooth, final = plan.steps[1], plan.steps[-1]
        assert smooth.before[Field.TARGETS] == smooth.after[Field.TARGETS] == DENSE
        assert (final.before[Field.TARGETS], final.after[Field.TARGETS]) == (DENSE, MULTI_HOT)


def test_a_plan_shows_both_conversions() -> None:
    plan = cp.compose(["mixup"], loss="bce", **FACTS)
    words = " ".join(plan.explain(pairs=True).split())
    assert "+ multi_hot_targets (inserted) dense → multi_hot" in words
    assert "mixup before multi_hot_targets: needs-and-gives: the loss alone needs multi_hot targets" in words
    steps = json.loads(plan.to_json())["steps"]
    assert [(step["name"], step["conversion"], step["after"]["targets"]) for step in steps] == [
        ("dense_targets", True, "dense"),
        ("mixup", False, "dense"),
        ("multi_hot_targets", True, "multi_hot"),
    ]


def test_a_loss_gets_labels_only_where_it_takes_neither_indices_nor_rows() -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()

    def order(kinds: set[str], *algorithms: str) -> tuple[str, ...]:
        return cp.compose(algorithms, loss=own, loss_accepts=kinds, **FACTS).order

    assert order({"index", "multi_hot"}) == ()
    assert order({"dense", "multi_hot"}) == ("dense_targets",)
    assert order({"index", "multi_hot"}, "mixup") == ("dense_targets", "mixup", "multi_hot_targets")
    assert order({"dense", "multi_hot"}, "mixup") == ("dense_targets", "mixup")
    assert order({"index", "dense", "multi_hot"}, "mixup") == ("dense_targets", "mixup")


def test_a_method_that_makes_what_the_loss_takes_is_left_to_it() -> None:
    class Rows(cp.Algorithm[None], name="rows"):
        """Gives rows, or labels, of class indices."""

        @cp.transform(targets=cp.Edit(needs=frozenset({INDEX}), gives=DENSE))
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_targets(CF.dense_targets(batch.targets, CLASSES))

    class Labels(Rows, name="labels"):
        @cp.transform(targets=cp.Edit(needs=frozenset({INDEX}), gives=MULTI_HOT))
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_targets(CF.dense_targets(batch.targets, CLASSES))

    assert cp.compose([Rows()], loss="bce", **FACTS).order == ("rows", "multi_hot_targets")
    assert cp.compose([Rows()], loss="kl", **FACTS).order == ("rows",)
    assert cp.compose([Labels()], loss="bce", **FACTS).order == ("labels",)


@pytest.mark.slow
def test_where_classes_are_no_labels_it_stays_a_fault() -> None:
    def codes(loss: Any, **facts: Any) -> list[str]:
        with pytest.raises(cp.CompositionError) as caught:
            cp.compose(["mixup"], loss=loss, **{**FACTS, **facts})
        return [fault.code for fault in caught.value.faults]

    assert codes("bce", task="segmentation") == ["loss-targets"]
    assert codes("bce", task="regression", num_classes=None) == ["loss-targets"]
    assert codes("mse") == ["loss-targets"]
    assert codes("bce", num_classes=None) == ["classes-unstated"]
    assert REAL not in resolve_loss(nn.BCEWithLogitsLoss()).accepts  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "targets",
    [torch.tensor([0, -100, 2, 3, 3, 1]), CF.dense_targets(torch.tensor([0, -100, 2, 3, 3, 1]), CLASSES)],
    ids=["index", "dense"],
)
@pytest.mark.parametrize("algorithms", [[], ["mixup"]], ids=["plain", "mixup"])
def test_ignored_positions_are_refused_by_name(targets: Tensor, algorithms: list[str]) -> None:
    plan = cp.compose(algorithms, loss="bce", **FACTS)
    for edit in (plan.prepare, lambda x, y: plan(x, y, step=0)):
        with pytest.raises(cp.DataError, match=r"ignored position.*multi_hot.*BCEWithLogitsLoss.*sample 1"):
            edit(IMAGES, targets)
    over_classes = cp.compose(algorithms, loss="cross_entropy", **FACTS)
    over_classes.prepare(IMAGES, targets)


def test_the_ignored_index_is_that_of_the_loss() -> None:
    spec = cp.LossSpec("own", lambda outputs, targets: outputs.sum(), frozenset({MULTI_HOT}), ignore_index=3)
    plan = cp.compose([], loss=spec, **FACTS)
    with pytest.raises(cp.DataError, match="target 3 marks an ignored position"):
        plan.prepare(IMAGES, INDICES)
    plan.prepare(IMAGES, INDICES.clamp(max=2))
    with pytest.raises(cp.DataError, match="target -100 is no class"):
        plan.prepare(IMAGES, torch.tensor([0, 1, 2, -100, 1, 1]))


def test_rows_of_classes_are_taken_as_labels() -> None:
    plan = cp.compose([], loss="bce", **FACTS)
    rows = torch.rand(6, CLASSES, dtype=torch.float64).softmax(1)
    _, targets = plan(IMAGES, rows, step=0)
    assert torch.equal(targets, rows)


class TestThreshold:
    """``targets > threshold`` counts as 1, else 0, as in timm's ``BinaryCrossEntropy``."""

    @pytest.mark.slow
    @settings(deadline=None)
    @given(
        values=st.lists(st.floats(0, 1, width=32) | st.sampled_from([0.2, 0.5]), min_size=CLASSES, max_size=CLASSES),
        threshold=st.sampled_from([0.0, 0.2, 0.5, 0.999]),
        weight=st.none() | factors,
        positive=st.none() | factors,
        reduction=st.sampled_from(["sum", "mean"]),
    )
    def test_follows_the_formula(
        self,
        values: list[float],
        threshold: float,
        weight: list[float] | None,
        positive: list[float] | None,
        reduction: str,
    ) -> None:
        others = {"weight": weight, "pos_weight": positive, "reduction": reduction}
        plan = cp.compose([], loss={"name": "bce", "target_threshold": threshold, **others}, **FACTS)
        logits = torch.linspace(-2, 3, CLASSES, dtype=torch.float64)[None].requires_grad_()
        targets = torch.tensor([values], dtype=torch.float64)
        labels = torch.tensor([[float(value > threshold) for value in values]])
        ones = [1.0] * CLASSES
        value, slope = by_hand(
            logits.detach(), labels, torch.tensor(weight or ones), torch.tensor(positive or ones), reduction
        )
        got = plan.loss(logits, targets)
        torch.testing.assert_close(got, value, rtol=1e-6, atol=1e-9)
        got.backward()
        torch.testing.assert_close(logits.grad, slope, rtol=1e-6, atol=1e-9)

    def test_both_classes_of_a_mix_count_whole(self) -> None:
        plan = cp.compose([], loss=ThresholdedBCEWithLogitsLoss(0.2), **FACTS)
        logits = torch.randn(1, CLASSES, generator=torch.Generator().manual_seed(1))
        both = nn.BCEWithLogitsLoss()(logits, torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
        one = nn.BCEWithLogitsLoss()(logits, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
        assert torch.equal(plan.loss(logits, torch.tensor([[0.7, 0.3, 0.0, 0.0]])), both)
        assert torch.equal(plan.loss(logits, torch.tensor([[0.8, 0.2, 0.0, 0.0]])), one)

    def test_the_comparison_is_made_in_the_dtype_of_the_targets(self) -> None:
        targets, logits = torch.tensor([[0.1]]), torch.tensor([[1.0]], dtype=torch.float64)
        wanted = nn.BCEWithLogitsLoss()(logits, targets.gt(0.1).double())
        assert torch.equal(binary_cross_entropy_with_logits(logits, targets, target_threshold=0.1), wanted)

    def test_module_config_and_function_agree(self) -> None:
        logits, targets = torch.randn(6, CLASSES), torch.rand(6, CLASSES)
        weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
        module = ThresholdedBCEWithLogitsLoss(0.2, weight=weight, pos_weight=2 * weight, reduction="sum")
        others = {"weight": weight.tolist(), "pos_weight": (2 * weight).tolist(), "reduction": "sum"}
        plan = cp.compose([], loss={"name": "bce", "target_threshold": 0.2, **others}, **FACTS)
        assert torch.equal(module(logits, targets), plan.loss(logits, targets))
        spec = resolve_loss(module)
        assert spec is not None
        assert spec.each is not None
        torch.testing.assert_close(spec.each(logits, targets).sum() * CLASSES, module(logits, targets))
        assert torch.equal(module(logits, targets), module(logits, targets.gt(0.2).float()))

    def test_the_fingerprint_covers_it(self) -> None:
        losses: list[Any] = ["bce", *({"name": "bce", "target_threshold": value} for value in (0.0, 0.2, 0.5))]
        assert len({cp.compose([], loss=loss, **FACTS).fingerprint for loss in losses}) == len(losses)

    @pytest.mark.slow
    @pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan, math.inf, "0.2", True])
    def test_another_threshold_is_refused(self, threshold: Any) -> None:
        with pytest.raises(cp.ConfigError, match=r"target_threshold is .*; it is a number from 0 to below 1"):
            ThresholdedBCEWithLogitsLoss(threshold)
        with pytest.raises(cp.CompositionError, match="target_threshold"):
            cp.compose([], loss={"name": "bce", "target_threshold": threshold}, **FACTS)
