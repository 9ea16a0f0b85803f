from __future__ import annotations

import math
import warnings
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from counterpoint import DENSE, ConfigError, DataError
from counterpoint.losses import kl_divergence
from tests.losses import naive
from tests.losses.parts import assert_parts_add_up, known, value_and_gradient

CLASSES = 4
REDUCTIONS = ("none", "sum", "batchmean", "mean")
SHAPES = {"vector": (6,), "map": (3, 4, 2)}


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape[0], CLASSES, *shape[1:], generator=generator, dtype=torch.float64)


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Log-probabilities and class probabilities, of which one row is a certain class and one ignored."""
    targets = normal(shape, 1).softmax(1)
    targets[0] = naive.dense_rows(torch.full((1, *shape[1:]), 2), CLASSES)[0]
    targets[1] = 0
    return normal(shape, 0).log_softmax(1), targets


def torch_kl(reduction: str, log_target: bool = False) -> nn.KLDivLoss:
    return nn.KLDivLoss(reduction=reduction, log_target=log_target)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_it_is_torch(reduction: str, shape: tuple[int, ...]) -> None:
    outputs, targets = batch(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that its mean is not the divergence
        wanted = value_and_gradient(torch_kl(reduction), outputs, targets)
    got = value_and_gradient(known(torch_kl(reduction)).function, outputs, targets)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_mixed_targets_give_the_loss_at_the_mixed_target(shape: tuple[int, ...]) -> None:
    outputs, targets = batch(shape)
    mixed = 0.3 * targets + 0.7 * targets.flip(0)
    total = 0.0
    for place in product(*map(range, mixed.shape)):
        y = float(mixed[place])
        total += y * (math.log(y) - float(outputs[place])) if y > 0 else 0.0
    divisors = {"sum": 1, "batchmean": shape[0], "mean": mixed.numel()}
    for reduction, divisor in divisors.items():
        got = kl_divergence(outputs, mixed, reduction=reduction)
        torch.testing.assert_close(got, torch.tensor(total / divisor, dtype=torch.float64), rtol=0, atol=1e-12)
    ends = [kl_divergence(outputs, ends, reduction="sum") for ends in (targets, targets.flip(0))]
    assert total < 0.3 * ends[0] + 0.7 * ends[1] - 0.1  # strictly convex: not the mix of the losses


def test_an_ignored_row_adds_nothing_and_counts_in_the_mean() -> None:
    outputs, targets = batch((6,))
    alone = kl_divergence(outputs[1:2], targets[1:2], reduction="none")
    assert torch.equal(alone, torch.zeros_like(alone))
    rest = torch.tensor([0, 2, 3, 4, 5])
    got = kl_divergence(outputs, targets, reduction="batchmean")
    torch.testing.assert_close(got, kl_divergence(outputs[rest], targets[rest], reduction="sum") / 6)


@pytest.mark.parametrize("value", [-torch.inf, torch.nan])
def test_an_output_of_an_absent_class_is_harmless(value: float) -> None:
    outputs, targets = batch((6,))
    clean = value_and_gradient(kl_divergence, outputs, targets)
    outputs[0, 1] = outputs[1, 3] = value  # the first row is certain of class 2, the second ignored
    torch.testing.assert_close(value_and_gradient(kl_divergence, outputs, targets), clean, rtol=0, atol=0)


@pytest.mark.parametrize("reduction", ["sum", "batchmean", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(reduction: str) -> None:
    spec = known(torch_kl(reduction))
    assert_parts_add_up(spec, *batch((6, 3)), (1, 2, 3))
    assert (spec.denominator is None) == (reduction == "sum")


def test_each_sample_is_averaged_over_its_positions_that_count() -> None:
    outputs, targets = batch((3, 4, 2))
    targets[2, :, 0, 0] = 0
    each = known(torch_kl("batchmean")).each
    assert each is not None
    for n, count in ((0, 8), (1, 1), (2, 7)):
        wanted = kl_divergence(outputs[n : n + 1], targets[n : n + 1], reduction="sum") / count
        torch.testing.assert_close(each(outputs, targets)[n], wanted, rtol=0, atol=1e-12)


def test_half_outputs_are_computed_in_float32() -> None:
    outputs, targets = batch((6,))
    half = outputs.bfloat16()
    got = kl_divergence(half, targets.float(), reduction="batchmean")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch_kl("batchmean")(half.float(), targets.float()))


def test_what_the_module_accepts() -> None:
    assert known(torch_kl("batchmean")).accepts == {DENSE}


def test_targets_as_logarithms_are_refused() -> None:
    with pytest.raises(ConfigError, match="log_target=False is the same loss"):
        known(torch_kl("batchmean", log_target=True))


@pytest.mark.parametrize(("outputs", "targets"), [((4, 3), (4, 1)), ((4, 3), (1, 3)), ((4, 3), (3,)), ((3,), (3,))])
def test_shapes_that_do_not_match_are_refused(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="KL divergence: outputs have shape"):
        kl_divergence(torch.zeros(outputs), torch.zeros(targets))


def test_a_reduction_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'batchmean'"):
        known(torch_kl("batchmeen"))
