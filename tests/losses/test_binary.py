from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from counterpoint import MULTI_HOT, ConfigError, DataError
from counterpoint.losses import binary_cross_entropy, binary_cross_entropy_with_logits
from tests.losses.parts import known

WEIGHT = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
POSITIVE = torch.tensor([4.0, 0.25, 1.0], dtype=torch.float64)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(5, 3, generator=generator, dtype=torch.float64)
    return logits, torch.rand(5, 3, generator=generator, dtype=torch.float64)


def naive(logits: Tensor, labels: Tensor, weight: Tensor, positive: Tensor) -> list[float]:
    losses = []
    for n, c in product(*map(range, logits.shape)):
        p, y = 1 / (1 + math.exp(-float(logits[n, c]))), float(labels[n, c])
        loss = -(float(positive[c]) * y * math.log(p) + (1 - y) * math.log(1 - p))
        losses.append(float(weight[c]) * loss)
    return losses


def reduced(losses: list[float], reduction: str, shape: torch.Size) -> Tensor:
    """Reduce by hand; the mean is over the elements, whatever their weights."""
    total = math.fsum(losses)
    result = {"none": losses, "sum": total, "mean": total / len(losses)}[reduction]
    return torch.tensor(result, dtype=torch.float64).reshape(shape)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("positive", [None, POSITIVE], ids=["plain", "pos_weight"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_logits_follow_the_formula(weight: Tensor | None, positive: Tensor | None, reduction: str) -> None:
    logits, labels = batch()
    ones = torch.ones(3)
    spec = known(nn.BCEWithLogitsLoss(weight, reduction=reduction, pos_weight=positive))
    got = spec.function(logits, labels)
    losses = naive(logits, labels, ones if weight is None else weight, ones if positive is None else positive)
    torch.testing.assert_close(got, reduced(losses, reduction, got.shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_probabilities_follow_the_formula(weight: Tensor | None, reduction: str) -> None:
    logits, labels = batch()
    spec = known(nn.BCELoss(weight, reduction=reduction))
    got = spec.function(logits.sigmoid(), labels)
    losses = naive(logits, labels, torch.ones(3) if weight is None else weight, torch.ones(3))
    torch.testing.assert_close(got, reduced(losses, reduction, got.shape), rtol=0, atol=1e-12)


def test_what_the_modules_accept() -> None:
    for spec in (known(nn.BCEWithLogitsLoss()), known(nn.BCELoss())):
        assert spec.accepts == {MULTI_HOT}
        assert spec.claims == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels = batch()
    half, single = logits.to(dtype).requires_grad_(), labels.float()
    loss = binary_cross_entropy_with_logits(half, single, weight=WEIGHT, pos_weight=POSITIVE)
    wanted = nn.functional.binary_cross_entropy_with_logits(
        half.detach().float(), single, WEIGHT.float(), pos_weight=POSITIVE.float()
    )
    assert loss.dtype == torch.float32
    assert torch.equal(loss.detach(), wanted)
    loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype
    from_probabilities = binary_cross_entropy(half.detach().sigmoid(), single, weight=WEIGHT)
    assert from_probabilities.dtype == torch.float32


def test_weights_are_read_at_every_call() -> None:
    logits, labels = batch()
    from_logits, from_probabilities = (
        nn.BCEWithLogitsLoss(torch.ones(3), pos_weight=torch.ones(3)),
        nn.BCELoss(torch.ones(3)),
    )
    specs = known(from_logits), known(from_probabilities)
    for loss in (from_logits, from_probabilities):
        loss.double()
        loss.weight = WEIGHT
    from_logits.pos_weight = POSITIVE
    assert torch.equal(specs[0].function(logits, labels), from_logits(logits, labels))
    assert torch.equal(specs[1].function(logits.sigmoid(), labels), from_probabilities(logits.sigmoid(), labels))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(reduction: str) -> None:
    logits, labels = batch()
    spec = known(nn.BCEWithLogitsLoss(WEIGHT, reduction=reduction, pos_weight=POSITIVE))
    total = torch.zeros((), dtype=torch.float64)
    for some, their in zip(logits.split((1, 4)), labels.split((1, 4)), strict=True):
        share = 1.0 if spec.denominator is None else spec.denominator(their) / spec.denominator(labels)
        total += spec.function(some, their) * share
    torch.testing.assert_close(total, spec.function(logits, labels), rtol=0, atol=1e-12)
    assert (spec.denominator is None) == (reduction == "sum")


@pytest.mark.parametrize("loss", [binary_cross_entropy, binary_cross_entropy_with_logits])
@pytest.mark.parametrize(("outputs", "targets"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (4, 1)), ((4, 3), (3,))])
def test_shapes_that_do_not_match_are_refused(
    loss: Callable[..., Tensor], outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(DataError, match="both must be the same"):
        loss(torch.zeros(outputs), torch.zeros(targets))


@pytest.mark.parametrize("shape", [(2,), (4, 1, 3), (3, 4), (2, 4, 3)])
def test_weights_that_would_enlarge_the_loss_are_refused(shape: tuple[int, ...]) -> None:
    outputs, targets, wrong = torch.full((4, 3), 0.5), torch.zeros(4, 3), torch.ones(shape)
    with pytest.raises(DataError, match=r"pos_weight has shape"):
        binary_cross_entropy_with_logits(outputs, targets, pos_weight=wrong)
    with pytest.raises(DataError, match=r": weight has shape"):
        binary_cross_entropy_with_logits(outputs, targets, weight=wrong)
    with pytest.raises(DataError, match=r": weight has shape"):
        binary_cross_entropy(outputs, targets, weight=wrong)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 1), (1, 3), (4, 3)])
def test_weights_that_broadcast_are_taken(shape: tuple[int, ...]) -> None:
    loss = binary_cross_entropy_with_logits(
        torch.zeros(4, 3), torch.ones(4, 3), weight=torch.full(shape, 2.0), pos_weight=torch.full(shape, 3.0)
    )
    torch.testing.assert_close(loss, torch.tensor(6 * math.log(2)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16])
def test_labels_that_are_not_float32_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=r"targets\.float\(\)"):
        binary_cross_entropy_with_logits(torch.zeros(4, 3), torch.zeros(4, 3, dtype=dtype))


def test_a_reduction_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="reduction is 'summ'"):
        known(nn.BCEWithLogitsLoss(reduction="summ"))
    with pytest.raises(ConfigError, match="reduction is 'summ'"):
        known(nn.BCELoss(reduction="summ"))


@pytest.mark.kind("30")
@pytest.mark.parametrize("wide", ["weight", "pos_weight"])
def test_weights_are_taken_in_the_dtype_of_outputs_and_targets(wide: str) -> None:
    loss = binary_cross_entropy_with_logits(
        torch.zeros(2, 3), torch.ones(2, 3), **{wide: torch.full((3,), 2.0, dtype=torch.float64)}
    )
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(2)))


@pytest.mark.kind("30")
@pytest.mark.parametrize("loss", [binary_cross_entropy_with_logits, binary_cross_entropy])
def test_outputs_that_are_whole_numbers_are_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(DataError, match=r"outputs are torch\.int64; the model must return floats"):
        loss(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3))
