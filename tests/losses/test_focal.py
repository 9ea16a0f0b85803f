from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from counterpoint import DENSE, INDEX, MULTI_HOT, ConfigError, DataError
from counterpoint.losses import BinaryFocalLoss, FocalLoss, binary_focal_loss, dense_cross_entropy, focal_loss
from tests.losses import naive
from tests.losses.parts import assert_parts_add_up, known, value_and_gradient

CLASSES = 4
WEIGHT = torch.tensor([0.5, 2.0, 0.0, 3.0], dtype=torch.float64)
REDUCTIONS = ("none", "sum", "mean")
GAMMAS = (0.0, 0.5, 1.0, 2.0)
SHAPES = {"vector": (7,), "map": (3, 4, 2)}


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(shape: tuple[int, ...], ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    targets = torch.arange(torch.Size(shape).numel()).reshape(shape) % CLASSES
    targets.view(-1)[2] = ignore_index
    return normal(shape[0], CLASSES, *shape[1:]), targets


def by_torch(
    logits: Tensor, indices: Tensor, gamma: float, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    """The paper's modulating factor on torch's cross-entropy of class indices."""
    plain = functional.cross_entropy(logits, indices, ignore_index=ignore_index, reduction="none")
    settings = {"weight": weight, "ignore_index": ignore_index}
    losses = (1 - (-plain).exp()) ** gamma * functional.cross_entropy(logits, indices, reduction="none", **settings)
    if reduction == "none":
        return losses
    kept = indices[indices != ignore_index]
    divisor = len(kept) if weight is None else weight[kept].sum()
    return losses.sum() if reduction == "sum" else losses.sum() / divisor


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 1, 255])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_certain_targets(
    gamma: float, weight: Tensor | None, ignore_index: int, reduction: str, shape: tuple[int, ...]
) -> None:
    logits, indices = batch(shape, ignore_index)
    loss = FocalLoss(gamma, weight=weight, ignore_index=ignore_index, reduction=reduction)

    def reference(outputs: Tensor, targets: Tensor) -> Tensor:
        return by_torch(outputs, targets, gamma, weight, ignore_index, reduction)

    wanted = value_and_gradient(reference, logits, indices)
    for targets in (indices, naive.dense_rows(indices, CLASSES, ignore_index)):
        for run in (loss, known(loss).function):
            # At an ignored position the reference takes 0 to a power of 0.5, whose slope is infinite.
            got = value_and_gradient(run, logits, targets)
            torch.testing.assert_close(got[0], wanted[0], rtol=0, atol=1e-12)
            torch.testing.assert_close(got[1], wanted[1].nan_to_num(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_mixed_targets_follow_the_formula(gamma: float, reduction: str, shape: tuple[int, ...]) -> None:
    logits, indices = batch(shape)
    rows = naive.dense_rows(indices, CLASSES)
    mixed = 0.3 * rows + 0.7 * rows.flip(0)
    losses, divisor = [], 0.0
    for n, *place in product(range(shape[0]), *map(range, shape[1:])):
        powers = [math.exp(float(logits[(n, c, *place)])) for c in range(CLASSES)]
        p = [power / math.fsum(powers) for power in powers]
        w_y = [float(WEIGHT[c]) * float(mixed[(n, c, *place)]) for c in range(CLASSES)]
        losses.append(math.fsum(-w_y[c] * (1 - p[c]) ** gamma * math.log(p[c]) for c in range(CLASSES)))
        divisor += math.fsum(w_y)
    wanted = {"none": losses, "sum": math.fsum(losses), "mean": math.fsum(losses) / divisor}[reduction]
    got = focal_loss(logits, mixed, gamma=gamma, weight=WEIGHT, reduction=reduction)
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64).reshape(got.shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("share", [0.25, 1.5])
def test_it_is_linear_in_the_targets(share: float, reduction: str) -> None:
    logits, first, second = normal(5, 3), normal(5, 3, seed=1).sigmoid(), normal(5, 3, seed=2).sigmoid()
    mixed = share * first + (1 - share) * second
    for loss in (focal_loss, binary_focal_loss):
        got, ends = (
            loss(logits, mixed, reduction=reduction),
            [loss(logits, targets, reduction=reduction) for targets in (first, second)],
        )
        torch.testing.assert_close(got, share * ends[0] + (1 - share) * ends[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gamma_0_is_cross_entropy_on_infinite_logits_and_ignored_rows_too(reduction: str) -> None:
    logits, targets = normal(5, CLASSES), normal(5, CLASSES, seed=1).softmax(1)
    targets[0] = 0
    targets[1] = torch.tensor([0, 0.5, 0, 0.5])
    logits[1, 0] = logits[2, 1] = logits[0, 0] = -torch.inf

    def focal(outputs: Tensor, dense: Tensor) -> Tensor:
        return focal_loss(outputs, dense, gamma=0.0, weight=WEIGHT, reduction=reduction)

    def cross_entropy(outputs: Tensor, dense: Tensor) -> Tensor:
        return dense_cross_entropy(outputs, dense, weight=WEIGHT, reduction=reduction)

    wanted = value_and_gradient(cross_entropy, logits, targets)
    torch.testing.assert_close(value_and_gradient(focal, logits, targets), wanted, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("loss", [focal_loss, binary_focal_loss])
def test_certain_predictions_have_a_finite_gradient(loss: Callable[..., Tensor], gamma: float) -> None:
    logits = torch.tensor([[1e3, -1e3], [-1e3, 1e3]])
    value, gradient = value_and_gradient(lambda o, t: loss(o, t, gamma=gamma), logits, torch.eye(2))
    assert value == 0
    assert gradient.isfinite().all()
    value, gradient = value_and_gradient(lambda o, t: loss(o, t, gamma=gamma), -logits, torch.eye(2))
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_an_absent_class_and_an_ignored_position_do_no_harm() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [torch.nan, 0.0, 0.0]])
    targets = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]])
    value, gradient = value_and_gradient(focal_loss, logits, targets)
    assert value.isfinite()
    assert gradient[0].isfinite().all()
    value, gradient = value_and_gradient(focal_loss, logits[:1], torch.zeros(1, 3))
    assert value.isnan()
    assert torch.equal(gradient, torch.zeros(1, 3))


def test_gradients_by_finite_differences() -> None:
    targets = normal(3, CLASSES, seed=1).softmax(1)
    for loss in (focal_loss, binary_focal_loss):
        for gamma in (0.5, 2.0):
            leaf = normal(3, CLASSES).requires_grad_()
            assert torch.autograd.gradcheck(lambda o, loss=loss, gamma=gamma: loss(o, targets, gamma=gamma), (leaf,))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("alpha", [None, 0.25, 0.0])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_labels_follow_the_papers_formula(gamma: float, alpha: float | None, reduction: str) -> None:
    logits, labels = normal(5, 3), normal(5, 3, seed=1).sigmoid()
    labels[0], labels[1] = 0, 1
    losses = []
    for n, c in product(range(5), range(3)):
        p, y = 1 / (1 + math.exp(-float(logits[n, c]))), float(labels[n, c])
        positive, negative = (1, 1) if alpha is None else (alpha, 1 - alpha)
        loss = -positive * y * (1 - p) ** gamma * math.log(p) - negative * (1 - y) * p**gamma * math.log(1 - p)
        losses.append(loss)
    wanted = {"none": losses, "sum": math.fsum(losses), "mean": math.fsum(losses) / 15}[reduction]
    loss = BinaryFocalLoss(gamma, alpha=alpha, reduction=reduction)
    for run in (loss, known(loss).function):
        got = run(logits, labels)
        torch.testing.assert_close(
            got, torch.tensor(wanted, dtype=torch.float64).reshape(got.shape), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_labels_with_gamma_0_have_binary_cross_entropy(reduction: str) -> None:
    logits, labels = normal(5, 3, scale=20.0), normal(5, 3, seed=1).sigmoid()

    def focal(outputs: Tensor, targets: Tensor) -> Tensor:
        return binary_focal_loss(outputs, targets, gamma=0.0, reduction=reduction)

    def binary(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction=reduction)

    wanted = value_and_gradient(binary, logits, labels)
    torch.testing.assert_close(value_and_gradient(focal, logits, labels), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(reduction: str) -> None:
    logits, indices = batch((7, 3))
    spec = known(FocalLoss(weight=WEIGHT, reduction=reduction))
    for targets in (indices, naive.dense_rows(indices, CLASSES)):
        assert_parts_add_up(spec, logits, targets, (1, 2, 4))
    labels = normal(5, 3, seed=1).sigmoid()
    assert_parts_add_up(known(BinaryFocalLoss(reduction=reduction)), normal(5, 3), labels, (1, 4))


def test_half_outputs_are_computed_in_float32() -> None:
    logits, indices = batch((7,))
    half = logits.bfloat16()
    for loss in (focal_loss, binary_focal_loss):
        dense = naive.dense_rows(indices, CLASSES, dtype=torch.float32)
        value = loss(half, dense)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(half.float(), dense))


def test_weights_move_with_the_module_and_are_read_at_every_call() -> None:
    loss = FocalLoss(weight=torch.ones(CLASSES))
    spec = known(loss)
    loss.weight = WEIGHT
    logits, indices = batch((7,))
    assert torch.equal(spec.function(logits, indices), focal_loss(logits, indices, weight=WEIGHT))
    assert loss.to("meta").weight.device == torch.device("meta")


def test_what_the_modules_accept() -> None:
    spec = known(FocalLoss(ignore_index=255))
    assert (spec.accepts, spec.ignore_index, spec.claims) == ({INDEX, DENSE}, 255, ())
    assert known(BinaryFocalLoss()).accepts == {MULTI_HOT}


@pytest.mark.parametrize("loss", [focal_loss, binary_focal_loss])
@pytest.mark.parametrize(("outputs", "targets"), [((4, 3), (4, 1)), ((4, 1), (4, 3)), ((4, 3), (3,))])
def test_shapes_that_do_not_match_are_refused(
    loss: Callable[..., Tensor], outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(DataError, match="focal loss: outputs have shape"):
        loss(torch.zeros(outputs), torch.zeros(targets))


def test_an_index_that_is_no_class_is_refused() -> None:
    with pytest.raises(DataError, match="7 is no class"):
        focal_loss(torch.zeros(2, 3), torch.tensor([0, 7]))


@pytest.mark.parametrize("gamma", [-0.5, math.inf, math.nan])
def test_settings_out_of_range_are_refused(gamma: float) -> None:
    for make in (FocalLoss, BinaryFocalLoss):
        with pytest.raises(ConfigError, match="gamma is"):
            make(gamma)
        with pytest.raises(ConfigError, match="did you mean 'mean'"):
            make(reduction="meen")
    with pytest.raises(ConfigError, match="alpha is"):
        BinaryFocalLoss(alpha=1.5)
    with pytest.raises(ConfigError, match="gamma is"):
        focal_loss(torch.zeros(2, 2), torch.eye(2), gamma=gamma)
