from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from counterpoint import DENSE, INDEX, ConfigError, DataError
from counterpoint.losses import dense_nll
from counterpoint.losses.nll import nll
from tests.losses import naive
from tests.losses.parts import assert_parts_add_up, known, value_and_gradient

CLASSES = 4
WEIGHTS = {"unweighted": None, "weighted": (0.5, 2.0, 1.0, 3.0), "one zero weight": (0.5, 0.0, 1.0, 3.0)}
REDUCTIONS = ("none", "sum", "mean")
SHAPES = {"vector": (7,), "map": (3, 4, 2)}


def batch(shape: tuple[int, ...], ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape[0], CLASSES, *shape[1:], generator=generator, dtype=torch.float64)
    targets = torch.arange(torch.Size(shape).numel()).reshape(shape) % CLASSES
    targets.view(-1)[2] = ignore_index
    return logits.log_softmax(1), targets


def module(weight: tuple[float, ...] | None = None, **settings: object) -> nn.NLLLoss:
    return nn.NLLLoss(weight=None if weight is None else torch.tensor(weight, dtype=torch.float64), **settings)


def assert_same(loss: nn.NLLLoss, outputs: Tensor, indices: Tensor) -> None:
    """Torch on class indices and ours on dense rows and on indices agree, NaN and infinity included."""
    wanted = value_and_gradient(loss, outputs, indices)
    dense = naive.dense_rows(indices, CLASSES, loss.ignore_index)
    for targets in (dense, indices):
        got = value_and_gradient(known(loss).function, outputs, targets)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 1, 255])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_dense_is_torch_on_class_indices(
    weight: tuple[float, ...] | None, ignore_index: int, reduction: str, shape: tuple[int, ...]
) -> None:
    assert_same(module(weight, ignore_index=ignore_index, reduction=reduction), *batch(shape, ignore_index))


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("at", [(0, 3), (0, 0), (2, 1), (1, 1)], ids=["another", "the class", "ignored", "weight 0"])
def test_outputs_that_are_not_finite(
    at: tuple[int, int], value: float, weight: tuple[float, ...] | None, reduction: str
) -> None:
    outputs, indices = batch((7,))
    outputs[at] = value
    assert_same(module(weight, reduction=reduction), outputs, indices)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_ignored_and_nothing_at_all(reduction: str) -> None:
    outputs, _ = batch((4,))
    assert_same(module(reduction=reduction), outputs, torch.full((4,), -100))
    assert_same(module(reduction=reduction), outputs[:0], torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_mixed_targets_follow_the_formula(
    weight: tuple[float, ...] | None, reduction: str, shape: tuple[int, ...]
) -> None:
    outputs, indices = batch(shape)
    rows = naive.dense_rows(indices, CLASSES)
    mixed = 0.3 * rows + 0.7 * rows.flip(0)
    factors = weight or (1.0,) * CLASSES
    losses, divisor = [], 0.0
    for n, *place in product(range(shape[0]), *map(range, shape[1:])):
        y = [float(mixed[(n, c, *place)]) for c in range(CLASSES)]
        losses.append(-math.fsum(factors[c] * y[c] * float(outputs[(n, c, *place)]) for c in range(CLASSES)))
        divisor += math.fsum(factors[c] * y[c] for c in range(CLASSES))
    wanted = {"none": losses, "sum": math.fsum(losses), "mean": math.fsum(losses) / divisor}[reduction]
    got = known(module(weight, reduction=reduction)).function(outputs, mixed)
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64).reshape(got.shape), rtol=0, atol=1e-12)


def test_log_softmax_and_nll_are_cross_entropy() -> None:
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(1)
    got = dense_nll(logits.log_softmax(1), targets)
    torch.testing.assert_close(got, functional.cross_entropy(logits, targets), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dense", [False, True], ids=["index", "dense"])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(reduction: str, weight: tuple[float, ...] | None, dense: bool) -> None:
    outputs, targets = batch((7, 3))
    spec = known(module(weight, reduction=reduction))
    assert_parts_add_up(spec, outputs, naive.dense_rows(targets, CLASSES) if dense else targets, (1, 2, 4))
    assert (spec.denominator is None) == (reduction == "sum")


def test_weights_are_read_at_every_call() -> None:
    loss = module((1.0, 1.0, 1.0, 1.0))
    spec = known(loss)
    loss.weight = torch.tensor([1.0, 5.0, 1.0, 1.0], dtype=torch.float64)
    outputs, indices = batch((7,))
    got = spec.function(outputs, naive.dense_rows(indices, CLASSES))
    torch.testing.assert_close(got, loss(outputs, indices), rtol=0, atol=1e-12)


def test_half_outputs_are_computed_in_float32() -> None:
    outputs, indices = batch((7,))
    half = outputs.bfloat16()
    got = dense_nll(half, naive.dense_rows(indices, CLASSES, dtype=torch.float32))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, functional.nll_loss(half.float(), indices))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_class_indices_take_outputs_and_weights_of_different_dtypes(dtype: torch.dtype) -> None:
    """Torch alone would refuse weights of another dtype than the outputs', which dense targets allow."""
    outputs, indices = batch((7,))
    weight, own = torch.tensor(WEIGHTS["weighted"]), outputs.to(dtype)
    value = nll(own, indices, weight=weight)
    dense = naive.dense_rows(indices, CLASSES, dtype=value.dtype)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value, dense_nll(own, dense, weight=weight), rtol=1e-6, atol=1e-6)


def test_what_a_module_accepts_and_ignores() -> None:
    spec = known(nn.NLLLoss(ignore_index=255))
    assert spec.accepts == {INDEX, DENSE}
    assert spec.ignore_index == 255
    assert spec.claims == ()


@pytest.mark.parametrize(
    ("outputs", "targets"), [((4, 3), (4, 1)), ((4, 3), (3,)), ((4, 3, 2), (4, 2, 3)), ((3,), (3,))]
)
def test_shapes_that_do_not_match_are_refused(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="negative log-likelihood: outputs have shape"):
        dense_nll(torch.zeros(outputs), torch.zeros(targets))
    with pytest.raises(DataError, match="3 classes need"):
        dense_nll(torch.zeros(4, 3), torch.zeros(4, 3), weight=torch.ones(4))


def test_a_reduction_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        known(nn.NLLLoss(reduction="meen"))
