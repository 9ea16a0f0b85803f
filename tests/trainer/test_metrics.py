from __future__ import annotations

import pytest
import torch
from torch import Tensor

from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.loop.metrics import (
    ClassAccuracy,
    EvaluationMetrics,
    MeanLoss,
    TrainingAccuracy,
    TrainingMetrics,
)

SPEC = DataSpec("multiclass", "features", (4,), 5)


def _batches() -> list[tuple[Tensor, Tensor]]:
    """Logits and class probabilities of batches of different sizes."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(size, 5, generator=generator), torch.rand(size, 5, generator=generator).softmax(1))
        for size in (7, 3, 1)
    ]


def test_expected_accuracy_is_the_probability_of_the_predicted_class() -> None:
    metric, total, count = TrainingAccuracy(), 0.0, 0
    for outputs, targets in _batches():
        metric.update(outputs, targets)
        for row, target in zip(outputs.tolist(), targets.tolist(), strict=True):
            total, count = total + target[row.index(max(row))], count + 1
    assert metric.compute().item() == pytest.approx(total / count, rel=1e-7)


def test_expected_accuracy_is_the_expectation_over_labels() -> None:
    outputs, targets = _batches()[0]
    metric = TrainingAccuracy()
    metric.update(outputs, targets)
    labels = torch.multinomial(targets, 20_000, replacement=True, generator=torch.Generator().manual_seed(1))
    sampled = (labels == outputs.argmax(1, keepdim=True)).double().mean().item()
    assert metric.compute().item() == pytest.approx(sampled, abs=0.005)


def test_expected_accuracy_on_certain_targets_is_the_accuracy() -> None:
    outputs, targets = _batches()[0]
    labels = targets.argmax(1)
    on_indices, on_dense = TrainingAccuracy(), TrainingAccuracy()
    on_indices.update(outputs, labels)
    on_dense.update(outputs, torch.nn.functional.one_hot(labels, 5).float())
    assert on_indices.compute() == on_dense.compute() == (outputs.argmax(1) == labels).double().mean()


def test_mean_loss_weighs_batches() -> None:
    metric = MeanLoss()
    losses = [(1.5, 128), (0.25, 128), (4.0, 7)]
    for loss, count in losses:
        metric.update(torch.tensor(loss), torch.tensor(float(count)))
    assert metric.compute().item() == sum(loss * count for loss, count in losses) / 263


def test_mean_loss_does_not_drift_over_a_million_batches() -> None:
    metric = MeanLoss()
    metric.update(torch.tensor(0.1), 2.0**26)
    for _ in range(64):
        metric.update(torch.tensor(0.1), 1.0)
    assert metric.compute().item() == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)


@pytest.mark.parametrize(("dense", "name"), [(True, "train_expected_accuracy"), (False, "train_accuracy")])
def test_training_metrics_go_on_from_their_state(dense: bool, name: str) -> None:
    def make() -> TrainingMetrics:
        return TrainingMetrics(SPEC, dense=dense)

    whole, first, second = make(), make(), make()
    for number, (outputs, targets) in enumerate(_batches()):
        if number == 2:
            second.load_state_dict(first.state_dict())
        for metrics in (whole, first if number < 2 else second):
            metrics.update(torch.tensor(0.1 * number + 0.3), len(targets), outputs, targets)
    assert second.compute() == whole.compute()
    assert whole.compute().keys() == {"train_loss", name}
    whole.reset()
    assert all(float(value) == 0 for value in whole.state_dict().values())


def test_a_state_does_not_change_with_its_metrics() -> None:
    metrics = TrainingMetrics(SPEC, dense=True)
    outputs, targets = _batches()[0]
    metrics.update(torch.tensor(1.0), 7, outputs, targets)
    state = metrics.state_dict()
    metrics.update(torch.tensor(1.0), 7, outputs, targets)
    assert state["loss.weight"] == 7


def test_evaluation_metrics_count_every_example() -> None:
    metrics, right, loss_sum = EvaluationMetrics(SPEC), 0, 0.0
    for outputs, targets in _batches():
        labels = targets.argmax(1)
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        metrics.update(loss, len(labels), outputs, labels)
        right += int((outputs.argmax(1) == labels).sum())
        loss_sum += torch.nn.functional.cross_entropy(outputs.double(), labels, reduction="sum").item()
    values = metrics.compute()
    assert values["evaluation_accuracy"] == pytest.approx(right / 11)
    assert values["evaluation_loss"] == pytest.approx(loss_sum / 11, rel=1e-6)


@pytest.mark.parametrize("task", ["segmentation", "multilabel", "regression"])
def test_other_tasks_have_a_loss_alone(task: str) -> None:
    spec = DataSpec(task, "features", (4,), None if task == "regression" else 5)
    training, evaluation = TrainingMetrics(spec, dense=False), EvaluationMetrics(spec)
    for metrics in (training, evaluation):
        metrics.update(torch.tensor(2.0), 3, torch.zeros(3, 5), torch.zeros(3, 5))
    assert training.compute() == {"train_loss": 2.0}
    assert evaluation.compute() == {"evaluation_loss": 2.0}
    assert training.local_accuracy() == {}


def test_a_batch_in_which_nothing_counts_leaves_the_mean_alone() -> None:
    metric = MeanLoss()
    metric.update(torch.tensor(2.0), torch.tensor(3.0))
    metric.update(torch.tensor(float("nan")), torch.tensor(0.0))
    assert metric.compute().item() == 2.0
    metric.update(torch.tensor(float("nan")), 1.0)
    assert metric.compute().isnan()


@pytest.mark.kind("18")
def test_the_accuracy_of_each_class_is_over_its_examples() -> None:
    """A class without examples has none; labels that are ignored count for no class."""
    metrics = EvaluationMetrics(DataSpec("multiclass", "features", (4,), 4, ("a", "b", "c", "d")))
    outputs = torch.eye(4)[[0, 0, 1, 2, 0]]
    metrics.update(torch.tensor(1.0), 3, outputs[:3], torch.tensor([0, 1, 1]))
    metrics.update(torch.tensor(1.0), 2, outputs[3:], torch.tensor([2, 1]))
    assert metrics.by_class() == pytest.approx(
        {"evaluation_accuracy/a": 1.0, "evaluation_accuracy/b": 1 / 3, "evaluation_accuracy/c": 1.0}
    )
    assert EvaluationMetrics(SPEC).by_class() == {}


@pytest.mark.kind("30")
def test_labels_out_of_range_count_for_no_class() -> None:
    metric = ClassAccuracy(3)
    metric.update(torch.eye(3)[[0, 1, 2, 2]], torch.tensor([0, -100, 3, 1]))
    assert (metric.count.tolist(), metric.right.tolist()) == ([1, 1, 0], [1, 0, 0])


@pytest.mark.kind("30")
def test_each_sum_is_taken_up_by_one_process_alone() -> None:
    """Two processes go on from the sums of both: 6 examples of mean loss 2, and 4 of them right."""
    saved = TrainingMetrics(SPEC, dense=False)
    outputs, labels = torch.eye(5)[[0, 1, 2, 3, 0, 0]], torch.tensor([0, 1, 2, 3, 4, 4])
    saved.update(torch.tensor(2.0), 6, outputs, labels)
    ranks = [TrainingMetrics(SPEC, dense=False) for _ in range(2)]
    for rank, metrics in enumerate(ranks):
        metrics.load_state_dict(saved.state_dict(), share=1.0 if rank == 0 else 0.0)
    sums = [{name: value.item() for name, value in metrics.state_dict().items()} for metrics in ranks]
    assert sums[0] == {"loss.total": 12, "loss.weight": 6, "accuracy.total": 4, "accuracy.weight": 6}
    assert set(sums[1].values()) == {0}
    assert ranks[0].local_accuracy() == {"accuracy": pytest.approx(4 / 6)}


@pytest.mark.kind("30")
def test_the_likeliest_class_of_dense_evaluation_targets_is_the_right_one() -> None:
    metrics = EvaluationMetrics(DataSpec("multiclass", "features", (4,), 3, ("a", "b", "c")))
    targets = torch.tensor([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.1, 0.2, 0.7], [0.5, 0.1, 0.4]])
    metrics.update(torch.tensor(1.0), 4, torch.eye(3)[[0, 0, 2, 2]], targets)
    assert metrics.compute()["evaluation_accuracy"] == 0.5
    assert metrics.by_class() == {
        "evaluation_accuracy/a": 0.5,
        "evaluation_accuracy/b": 0.0,
        "evaluation_accuracy/c": 1.0,
    }
