from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from counterpoint.core.errors import ConfigError, DataError
from counterpoint.core.kinds import REAL
from counterpoint.losses import squared_error
from counterpoint.losses.regression import spec_of


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    outputs, targets = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    return outputs, targets


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_it_follows_the_formula(reduction: str) -> None:
    outputs, targets = batch()
    squares = [(float(a) - float(b)) ** 2 for a, b in zip(outputs.flatten(), targets.flatten(), strict=True)]
    total = math.fsum(squares)
    got = spec_of(nn.MSELoss(reduction=reduction)).function(outputs, targets)
    wanted = {"none": squares, "sum": total, "mean": total / len(squares)}[reduction]
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64).reshape(got.shape), rtol=0, atol=1e-12)


def test_what_the_module_accepts() -> None:
    assert spec_of(nn.MSELoss()).accepts == {REAL}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    outputs, targets = batch()
    half = outputs.to(dtype).requires_grad_()
    loss = squared_error(half, targets.float())
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss.detach(), nn.functional.mse_loss(half.detach().float(), targets.float()))
    assert half.grad is not None
    assert half.grad.dtype == dtype


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(reduction: str) -> None:
    outputs, targets = batch()
    spec = spec_of(nn.MSELoss(reduction=reduction))
    total = torch.zeros((), dtype=torch.float64)
    for some, their in zip(outputs.split((1, 3, 2)), targets.split((1, 3, 2)), strict=True):
        share = 1.0 if spec.denominator is None else spec.denominator(their) / spec.denominator(targets)
        total += spec.function(some, their) * share
    torch.testing.assert_close(total, spec.function(outputs, targets), rtol=0, atol=1e-12)
    assert (spec.denominator is None) == (reduction == "sum")


@pytest.mark.parametrize(("outputs", "targets"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 2), (2,)), ((4, 2), (4, 1))])
def test_shapes_that_do_not_match_are_refused(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="both must be the same"):
        squared_error(torch.zeros(outputs), torch.zeros(targets))


def test_dtypes_that_are_no_floats_are_refused() -> None:
    with pytest.raises(DataError, match=r"targets are torch\.int64"):
        squared_error(torch.zeros(4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match=r"outputs are torch\.int64"):
        squared_error(torch.zeros(4, dtype=torch.int64), torch.zeros(4))


def test_a_reduction_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        spec_of(nn.MSELoss(reduction="maen"))
