"""The metrics of a run: sums over the examples of an epoch, reduced over processes by torchmetrics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from counterpoint.trainer.data.dataset import DataSpec

__all__ = ["ClassAccuracy", "EvaluationMetrics", "MeanLoss", "TrainingAccuracy", "TrainingMetrics"]


class _Mean(Metric):
    """A weighted mean; its sums are float64, or float32 on Apple's GPUs, which have no float64."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self._sums = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.add_state("total", torch.zeros((), dtype=self._sums), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=self._sums), dist_reduce_fx="sum")
        self.persistent(True)
        self.to(device)

    @property
    def update_called(self) -> bool:
        """Whether there is anything to compute, be it from a checkpoint."""
        return bool(self.weight)

    def compute(self) -> Tensor:
        """Return the mean; NaN before the first batch."""
        return self.total / self.weight


class MeanLoss(_Mean):
    """The mean loss over examples, each batch's mean weighted by what it was divided by.

    >>> import torch
    >>> metric = MeanLoss()
    >>> metric.update(torch.tensor(1.0), 30)
    >>> metric.update(torch.tensor(2.0), 10)
    >>> metric.compute().item()
    1.25
    """

    def update(self, loss: Tensor, weight: Tensor | float) -> None:
        """Add a batch of mean ``loss`` that counts ``weight`` times; one that does not count may be NaN, 0 / 0."""
        times = torch.as_tensor(weight, dtype=self._sums, device=loss.device)
        self.total += torch.where(times == 0, 0, loss.detach().to(self._sums) * times)
        self.weight += times


class TrainingAccuracy(_Mean):
    """The mean, over examples, of the probability that the targets give to the class that the model predicts.

    On targets that are certain this is the accuracy. On mixed ones it stays below 1 even for a perfect model.

    >>> metric = TrainingAccuracy()
    >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[0.75, 0.25], [0.0, 1.0]]))
    >>> metric.compute().item()
    0.875
    """

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (N, C), and class probabilities (N, C) or class indices (N), which are certain."""
        predicted = outputs.detach().argmax(1)
        correct = targets.gather(1, predicted[:, None]) if targets.is_floating_point() else predicted == targets
        self.total += correct.sum(dtype=self._sums)
        self.weight += len(targets)


class ClassAccuracy(Metric):
    """The accuracy over the examples of each class; NaN for a class without any.

    >>> metric = ClassAccuracy(3)
    >>> metric.update(torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 3.0, 0.0]]), torch.tensor([0, 1, 1]))
    >>> metric.compute().tolist()
    [1.0, 0.5, nan]
    """

    full_state_update = False
    right: Tensor
    count: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (N, C), and class indices (N); indices out of range count for no class."""
        known = (labels >= 0) & (labels < len(self.count))
        labels, predicted = labels[known], outputs.detach().argmax(1)[known]
        self.count += torch.bincount(labels, minlength=len(self.count))
        self.right += torch.bincount(labels[predicted == labels], minlength=len(self.count))

    def compute(self) -> Tensor:
        """Return the accuracy of each class, (C)."""
        return self.right / self.count


class TrainingMetrics:
    """Loss and, for ``multiclass``, accuracy over the training batches of an epoch, as they were trained on.

    On dense targets the accuracy is called ``expected_accuracy``, because it is another quantity.
    """

    def __init__(self, spec: DataSpec, *, dense: bool, device: torch.device | str = "cpu") -> None:
        self._metrics: dict[str, Metric] = {"loss": MeanLoss(device)}
        self._accuracy = "expected_accuracy" if dense else "accuracy"
        if spec.task == "multiclass":
            self._metrics[self._accuracy] = TrainingAccuracy(device)

    def update(self, loss: Tensor, weight: Tensor | float, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch, or a part of one; nothing is copied to the host."""
        self._metrics["loss"].update(loss, weight)
        if self._accuracy in self._metrics:
            self._metrics[self._accuracy].update(outputs, targets)

    def local_accuracy(self) -> dict[str, float]:
        """Return the accuracy so far in this process, without waiting for others."""
        metric = self._metrics.get(self._accuracy)
        return {self._accuracy: float(metric.total / metric.weight)} if isinstance(metric, TrainingAccuracy) else {}

    def compute(self) -> dict[str, float]:
        """Return each mean since the last reset, over all processes."""
        return _values("train", self._metrics)

    def reset(self) -> None:
        """Reset all sums."""
        for metric in self._metrics.values():
            metric.reset()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the sums over all processes, under names such as ``loss.total``."""
        state: dict[str, Tensor] = {}
        for name, metric in self._metrics.items():
            with metric.sync_context():
                state |= {f"{name}.{key}": value.clone() for key, value in metric.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], *, share: float = 1.0) -> None:
        """Take up sums that ``state_dict`` returned, times ``share``: 1 in one process, 0 in the others."""
        for name, metric in self._metrics.items():
            metric.load_state_dict({key: state[f"{name}.{key}"] * share for key in ("total", "weight")})


class EvaluationMetrics:
    """Loss and, for ``multiclass``, accuracy over the evaluation data."""

    def __init__(self, spec: DataSpec, *, device: torch.device | str = "cpu") -> None:
        self._metrics: dict[str, Metric] = {"loss": MeanLoss(device)}
        if spec.task == "multiclass" and spec.num_classes is not None:
            accuracy = MulticlassAccuracy(spec.num_classes, average="micro", validate_args=False)
            self._metrics["accuracy"] = accuracy.to(device)
        self._classes = spec.classes if "accuracy" in self._metrics else ()
        self._by_class = ClassAccuracy(len(self._classes)).to(device)

    def update(self, loss: Tensor, weight: Tensor | float, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss and what that was divided by, logits (N, C), and class indices (N).

        Of class probabilities (N, C) the likeliest class counts as the right one.
        """
        self._metrics["loss"].update(loss, weight)
        if "accuracy" in self._metrics:
            labels = targets.argmax(1) if targets.is_floating_point() else targets
            self._metrics["accuracy"].update(outputs, labels)
            if self._classes:
                self._by_class.update(outputs, labels)

    def by_class(self) -> dict[str, float]:
        """Return the accuracy of each class over all processes, by its name, where classes have names and examples."""
        if not self._classes:
            return {}
        found = zip(self._classes, _computed(self._by_class).tolist(), strict=True)
        return {f"evaluation_accuracy/{name}": value for name, value in found if not math.isnan(value)}

    def compute(self) -> dict[str, float]:
        """Return each mean over all processes."""
        return _values("evaluation", self._metrics)


def _values(prefix: str, metrics: Mapping[str, Metric]) -> dict[str, float]:
    return {f"{prefix}_{name}": float(_computed(metric)) for name, metric in metrics.items()}


def _computed(metric: Metric) -> Tensor:
    with warnings.catch_warnings():
        # With few examples some processes have none, but must still take part in the reduction.
        warnings.filterwarnings("ignore", "The ``compute`` method of metric", UserWarning)
        value: Tensor = metric.compute()
    return value
