"""The loss of each sample: what it is, number by number, for every known loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from counterpoint import DataError, LossSpec
from counterpoint.losses import BinaryCrossEntropy, BinaryFocalLoss, FocalLoss, resolve_loss
from counterpoint.plugins import registry
from tests.losses import naive

CLASSES = 4
WEIGHT = (0.5, 2.0, 0.0, 3.0)
SHAPES = {"vector": (6,), "map": (3, 4, 2)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def each_of(loss: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    spec = resolve_loss(loss)
    assert spec is not None
    assert spec.each is not None
    return spec.each


def sample_means(outputs: Tensor, dense: Tensor, single: Callable[[list[float], list[float]], float]) -> Tensor:
    """Add the losses of a sample's positions one by one; divide by the mass of those positions."""
    means = []
    for n in range(outputs.shape[0]):
        losses, masses = [], []
        for place in product(*map(range, outputs.shape[2:])):
            row = [float(outputs[(n, c, *place)]) for c in range(outputs.shape[1])]
            y = [float(dense[(n, c, *place)]) for c in range(outputs.shape[1])]
            losses.append(single(row, y))
            masses.append(math.fsum(y))
        means.append(math.fsum(losses) / math.fsum(masses) if any(masses) else 0.0)
    return torch.tensor(means, dtype=torch.float64)


def focal(p: float, y: float) -> float:
    return -y * (1 - p) ** 2 * math.log(p) - (1 - y) * p**2 * math.log(1 - p)


def indices(shape: tuple[int, ...]) -> Tensor:
    """Class indices of which one is ignored, and the whole last sample."""
    targets = torch.arange(torch.Size(shape).numel()).reshape(shape) % CLASSES
    targets.view(-1)[1] = -100
    targets[-1] = -100
    return targets


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_cross_entropy(
    weight: tuple[float, ...] | None, smoothing: float, reduction: str, shape: tuple[int, ...]
) -> None:
    logits, targets = normal(shape[0], CLASSES, *shape[1:]), indices(shape)
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    each = each_of(nn.CrossEntropyLoss(tensor, label_smoothing=smoothing, reduction=reduction))

    def single(row: list[float], y: list[float]) -> float:
        log_sum = math.log(math.fsum(map(math.exp, row)))
        factors = weight or (1.0,) * CLASSES
        smoothed = [(1 - smoothing) * value + smoothing / CLASSES * math.fsum(y) for value in y]
        return math.fsum(w * s * (log_sum - x) for w, s, x in zip(factors, smoothed, row, strict=True))

    rows = naive.dense_rows(targets, CLASSES)
    wanted = sample_means(logits, rows, single)
    assert wanted[-1] == 0
    torch.testing.assert_close(each(logits, targets), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(each(logits, rows), wanted, rtol=0, atol=1e-12)
    mixed = 0.3 * rows + 0.7 * rows.flip(0)
    torch.testing.assert_close(each(logits, mixed), sample_means(logits, mixed, single), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("gamma", [None, 2.0], ids=["nll", "focal"])
def test_the_other_losses_over_classes(gamma: float | None, reduction: str, shape: tuple[int, ...]) -> None:
    outputs, targets = normal(shape[0], CLASSES, *shape[1:]).log_softmax(1), indices(shape)
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    loss = nn.NLLLoss(weight, reduction=reduction) if gamma is None else FocalLoss(weight=weight, reduction=reduction)

    def single(row: list[float], y: list[float]) -> float:
        powers = [1.0 if gamma is None else (1 - math.exp(x)) ** gamma for x in row]
        return -math.fsum(w * t * f * x for w, t, f, x in zip(WEIGHT, y, powers, row, strict=True))

    rows = naive.dense_rows(targets, CLASSES)
    for given in (targets, rows):
        torch.testing.assert_close(
            each_of(loss)(outputs, given), sample_means(outputs, rows, single), rtol=0, atol=1e-12
        )


@pytest.mark.kind("30")
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("ignored", [2, 255, -7])
@pytest.mark.parametrize("make", [nn.CrossEntropyLoss, nn.NLLLoss, FocalLoss])
def test_an_ignored_index_of_ones_own_counts_nowhere(
    make: Callable[..., nn.Module], ignored: int, reduction: str
) -> None:
    """Positions with it add nothing to the losses, and the means divide by the other positions alone."""
    outputs, targets = normal(3, CLASSES, 2).log_softmax(1), torch.tensor([[0, 1], [3, ignored], [ignored, ignored]])
    loss = make(weight=torch.tensor(WEIGHT).double(), ignore_index=ignored, reduction=reduction)
    spec = resolve_loss(loss)
    assert spec is not None
    assert spec.ignore_index == ignored
    assert spec.classes == CLASSES
    log_p = outputs[[0, 0, 1], [0, 1, 3], [0, 1, 0]]
    power = (1 - log_p.exp()) ** 2 if make is FocalLoss else 1.0
    a, b, c = (-torch.tensor([0.5, 2.0, 3.0]) * power * log_p).tolist()
    torch.testing.assert_close(
        each_of(loss)(outputs, targets), torch.tensor([(a + b) / 2, c, 0.0]).double(), rtol=0, atol=1e-6
    )
    losses = torch.tensor([[a, b], [c, 0.0], [0.0, 0.0]], dtype=torch.float64)
    wanted = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / 5.5}[reduction]
    torch.testing.assert_close(spec.function(outputs, targets), wanted, rtol=1e-6, atol=1e-6)
    if reduction == "mean":
        assert spec.denominator is not None
        assert spec.denominator(targets) == 0.5 + 2.0 + 3.0
        assert spec.denominator(torch.full_like(targets, ignored)) == 0
    else:
        assert spec.denominator is None


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shape", [(5,), (5, CLASSES), (5, 3, CLASSES)])
@pytest.mark.parametrize(
    ("make", "single"),
    [
        (nn.MSELoss, lambda o, y: (o - y) ** 2),
        (nn.L1Loss, lambda o, y: abs(o - y)),
        (nn.BCELoss, lambda o, y: -(y * math.log(o) + (1 - y) * math.log(1 - o))),
        (nn.BCEWithLogitsLoss, lambda o, y: math.log1p(math.exp(-o)) * y + math.log1p(math.exp(o)) * (1 - y)),
        (BinaryFocalLoss, lambda o, y: focal(1 / (1 + math.exp(-o)), y)),
    ],
    ids=["mse", "l1", "bce", "bce_with_logits", "binary_focal"],
)
def test_elements_of_a_sample_are_averaged(
    make: Callable[..., nn.Module], single: Callable[[float, float], float], shape: tuple[int, ...], reduction: str
) -> None:
    outputs, targets = normal(*shape).sigmoid(), normal(*shape, seed=1).sigmoid()
    wanted = []
    for row, y in zip(outputs.reshape(5, -1).tolist(), targets.reshape(5, -1).tolist(), strict=True):
        wanted.append(math.fsum(map(single, row, y)) / len(row))
    got = each_of(make(reduction=reduction))(outputs, targets)
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


def test_weights_of_labels_weigh_the_loss_of_each_sample() -> None:
    logits, labels, weight = normal(5, CLASSES), normal(5, CLASSES, seed=1).sigmoid(), torch.tensor(WEIGHT).double()
    loss = nn.BCEWithLogitsLoss(torch.ones(CLASSES), pos_weight=weight)
    each = each_of(loss)
    loss.weight = weight  # read at every call
    for n in range(5):
        wanted = nn.functional.binary_cross_entropy_with_logits(logits[n], labels[n], weight, pos_weight=weight)
        torch.testing.assert_close(each(logits, labels)[n], wanted, rtol=0, atol=1e-12)


LOSSES = {
    "bce_of_probabilities": nn.BCELoss(),
    "bce_with_threshold": BinaryCrossEntropy(target_threshold=0.2).build(),
    **{
        entry.name: registry.LOSSES.load(entry.name)().build()
        for entry in registry.LOSSES.entries()
        if entry.package == "counterpoint"
    },
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_mean_of_a_batch_of_certain_targets_is_the_mean_of_its_samples(loss: nn.Module) -> None:
    outputs, targets = normal(6, CLASSES).softmax(1), torch.eye(CLASSES, dtype=torch.float64)[torch.arange(6) % 4]
    spec = resolve_loss(loss)
    assert isinstance(spec, LossSpec)
    torch.testing.assert_close(each_of(loss)(outputs, targets).mean(), spec.function(outputs, targets))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_empty_batch_has_no_losses(loss: nn.Module) -> None:
    assert each_of(loss)(torch.zeros(0, CLASSES), torch.zeros(0, CLASSES)).shape == (0,)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_shapes_that_would_broadcast_are_refused(loss: nn.Module) -> None:
    with pytest.raises(DataError, match="shape"):
        each_of(loss)(torch.full((4, 3), 0.5), torch.ones(4, 1))
