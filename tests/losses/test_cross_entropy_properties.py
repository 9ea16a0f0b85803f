"""What holds for any targets: linearity, and that shared factors cancel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from counterpoint.losses import dense_cross_entropy
from tests.losses import naive
from tests.losses.parts import known

seeds = st.integers(0, 2**31 - 1)
shares = st.floats(-2.0, 3.0, allow_nan=False)
smoothings = st.sampled_from([0.0, 0.1, 1.0])
shapes = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3))


def draw(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, two sets of targets of any mass, and class weights."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    first, second = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    weight = 0.1 + torch.rand(shape[1], generator=generator, dtype=torch.float64)
    return logits, first, second, weight


@pytest.mark.slow
@given(seeds, shapes, shares, smoothings, st.sampled_from(["none", "sum"]))
@settings(max_examples=100, deadline=None)
def test_none_and_sum_are_linear_in_the_targets(
    seed: int, shape: tuple[int, int, int], share: float, smoothing: float, reduction: str
) -> None:
    logits, first, second, weight = draw(seed, shape)

    def loss(targets: Tensor) -> Tensor:
        return dense_cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing, reduction=reduction)

    mixed = share * first + (1 - share) * second
    torch.testing.assert_close(loss(mixed), share * loss(first) + (1 - share) * loss(second), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@given(seeds, shapes, st.floats(0.0, 1.0), smoothings)
@settings(max_examples=100, deadline=None)
def test_the_mean_is_one_linear_map_over_another(
    seed: int, shape: tuple[int, int, int], share: float, smoothing: float
) -> None:
    logits, first, second, weight = draw(seed, shape)
    spec = known(torch.nn.CrossEntropyLoss(weight, label_smoothing=smoothing))
    assert spec.denominator is not None

    def numerator(targets: Tensor) -> Tensor:
        return dense_cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing, reduction="sum")

    mixed = share * first + (1 - share) * second
    above = share * numerator(first) + (1 - share) * numerator(second)
    below = share * spec.denominator(first) + (1 - share) * spec.denominator(second)
    torch.testing.assert_close(spec.denominator(mixed), below, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(spec.function(logits, mixed), above / below, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@given(seeds, shapes, smoothings, st.sampled_from(["none", "sum", "mean"]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_targets_follow_the_formula(
    seed: int, shape: tuple[int, int, int], smoothing: float, reduction: str, weighted: bool
) -> None:
    logits, targets, _, weight = draw(seed, shape)
    factors = weight.tolist() if weighted else [1.0] * shape[1]
    got = dense_cross_entropy(
        logits, targets, weight=weight if weighted else None, label_smoothing=smoothing, reduction=reduction
    )
    wanted = torch.tensor(naive.cross_entropy(logits, targets, factors, smoothing, reduction), dtype=torch.float64)
    torch.testing.assert_close(got, wanted.reshape(got.shape), rtol=1e-10, atol=1e-10)


@given(seeds, shapes, smoothings)
@settings(max_examples=50, deadline=None)
def test_smoothing_in_the_loss_is_smoothing_of_the_targets(
    seed: int, shape: tuple[int, int, int], smoothing: float
) -> None:
    logits, targets, _, weight = draw(seed, shape)
    smoothed = (1 - smoothing) * targets + smoothing / shape[1] * targets.sum(1, keepdim=True)
    before = dense_cross_entropy(logits, smoothed, weight=weight, reduction="none")
    inside = dense_cross_entropy(logits, targets, weight=weight, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(before, inside, rtol=1e-10, atol=1e-10)
