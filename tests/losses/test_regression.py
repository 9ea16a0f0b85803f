from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from counterpoint import REAL, ConfigError, DataError
from counterpoint.losses import absolute_error, squared_error
from tests.losses.parts import known, value_and_gradient


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    outputs, targets = torch.randn(2, 6, 2, generator=generator, dtype=torch.float64)
    return outputs, targets


MODULES = (nn.MSELoss, nn.L1Loss)
FUNCTIONS = (squared_error, absolute_error)
POWERS = {nn.MSELoss: 2, nn.L1Loss: 1}


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_they_follow_the_formula_and_torch(reduction: str, make: Callable[..., nn.Module]) -> None:
    outputs, targets = batch()
    pairs = zip(outputs.flatten(), targets.flatten(), strict=True)
    powers = [abs(float(a) - float(b)) ** POWERS[make] for a, b in pairs]
    total = math.fsum(powers)
    loss = make(reduction=reduction)
    got, gradient = value_and_gradient(known(loss).function, outputs, targets)
    assert torch.equal(gradient, value_and_gradient(loss, outputs, targets)[1])
    wanted = {"none": powers, "sum": total, "mean": total / len(powers)}[reduction]
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64).reshape(got.shape), rtol=0, atol=1e-12)


@pytest.mark.parametrize("error", FUNCTIONS)
def test_mixed_targets_give_the_loss_at_the_mixed_target(error: Callable[..., Tensor]) -> None:
    outputs, first, second = torch.tensor([[0.0]]), torch.tensor([[-1.0]]), torch.tensor([[1.0]])
    assert error(outputs, (first + second) / 2) == 0
    assert (error(outputs, first) + error(outputs, second)) / 2 == 1


@pytest.mark.parametrize("make", MODULES)
def test_what_the_modules_accept(make: Callable[..., nn.Module]) -> None:
    assert known(make()).accepts == {REAL}


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_computed_in_float32(dtype: torch.dtype, make: Callable[..., nn.Module]) -> None:
    outputs, targets = batch()
    half = outputs.to(dtype).requires_grad_()
    loss = known(make()).function(half, targets.float())
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.equal(loss.detach(), make()(half.detach().float(), targets.float()))
    assert half.grad is not None
    assert half.grad.dtype == dtype


@pytest.mark.parametrize("make", MODULES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(reduction: str, make: Callable[..., nn.Module]) -> None:
    outputs, targets = batch()
    spec = known(make(reduction=reduction))
    total = torch.zeros((), dtype=torch.float64)
    for some, their in zip(outputs.split((1, 3, 2)), targets.split((1, 3, 2)), strict=True):
        share = 1.0 if spec.denominator is None else spec.denominator(their) / spec.denominator(targets)
        total += spec.function(some, their) * share
    torch.testing.assert_close(total, spec.function(outputs, targets), rtol=0, atol=1e-12)
    assert (spec.denominator is None) == (reduction == "sum")


@pytest.mark.parametrize("error", FUNCTIONS)
@pytest.mark.parametrize(("outputs", "targets"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 2), (2,)), ((4, 2), (4, 1))])
def test_shapes_that_do_not_match_are_refused(
    outputs: tuple[int, ...], targets: tuple[int, ...], error: Callable[..., Tensor]
) -> None:
    with pytest.raises(DataError, match="both must be the same"):
        error(torch.zeros(outputs), torch.zeros(targets))


@pytest.mark.parametrize("error", FUNCTIONS)
def test_dtypes_that_are_no_floats_are_refused(error: Callable[..., Tensor]) -> None:
    with pytest.raises(DataError, match=r"targets are torch\.int64"):
        error(torch.zeros(4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(DataError, match=r"outputs are torch\.int64"):
        error(torch.zeros(4, dtype=torch.int64), torch.zeros(4))


@pytest.mark.parametrize("make", MODULES)
def test_a_reduction_that_does_not_exist_is_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        known(make(reduction="maen"))


@pytest.mark.kind("30")
@pytest.mark.parametrize(("loss", "name"), [(squared_error, "squared error"), (absolute_error, "absolute error")])
def test_each_error_is_named_in_what_it_refuses(loss: Callable[..., Tensor], name: str) -> None:
    for outputs, targets in (
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2).long(), torch.zeros(2)),
        (torch.zeros(2), torch.zeros(2).half()),
    ):
        with pytest.raises(DataError, match=f"^{name}: "):
            loss(outputs, targets)
