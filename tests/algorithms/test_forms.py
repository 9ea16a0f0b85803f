"""The forms of an edit, in passes and sample by sample, do the same: for every dtype, layout, place and partner."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import counterpoint.functional as CF
from counterpoint.algorithms import forms, normalize
from counterpoint.algorithms.cutmix import paste
from counterpoint.algorithms.cutout import fill_boxes
from counterpoint.algorithms.forms import from_front
from counterpoint.algorithms.mixup import mix
from tests.algorithms.batches import images, plan_for, targets
from tests.algorithms.cases import CASES, EditCase

SHAPE = (5, 3, 6, 4)
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
layouts = pytest.mark.parametrize("layout", ["plain", "channels_last", "every_second", "expanded"])
quickly = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@pytest.fixture(params=["in passes", "one by one"])
def form(request: pytest.FixtureRequest) -> Any:
    size = 1 if request.param == "one by one" else 1 << 60
    with mock.patch.dict(forms.FROM_BYTES, dict.fromkeys(forms.FROM_BYTES, size)):
        yield request.param


def laid_out(values: Tensor, layout: str) -> Tensor:
    """Return values of SHAPE in a layout; expanded, every sample is the first."""
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "every_second":
        return values.repeat_interleave(2, dim=-1)[..., ::2]
    return values[:1].expand_as(values) if layout == "expanded" else values


def noise(dtype: torch.dtype, layout: str = "plain") -> Tensor:
    numbers = torch.Generator().manual_seed(2)
    values = torch.randint(-99, 99, SHAPE, generator=numbers) / 8
    return laid_out(values.to(torch.uint8) if dtype == torch.uint8 else values.to(dtype), layout)


BOXES = torch.tensor([[0, 0, 2, 3], [1, 1, 4, 6], [2, 2, 2, 2], [0, 0, 4, 6], [3, 5, 4, 6]])
PERMS = ([2, 0, 1, 4, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 0], [3, 3, 0, 1, 1], [-1, 0, -4, 2, 3])


def pasted(values: np.ndarray[Any, Any], boxes: Tensor, perm: list[int]) -> np.ndarray[Any, Any]:
    wanted = values.copy()
    for number, partner in enumerate(perm):
        left, top, right, bottom = boxes[number % len(boxes)].tolist()
        for y in range(top, bottom):
            wanted[number, :, y, left:right] = values[partner, :, y, left:right]
    return wanted


@pytest.mark.slow
@layouts
@pytest.mark.parametrize("dtype", [*FLOATING, torch.uint8], ids=str)
@pytest.mark.parametrize("perm", PERMS, ids=str)
def test_boxes_are_pasted_bit_for_bit(form: str, dtype: torch.dtype, layout: str, perm: list[int]) -> None:
    for boxes in (BOXES, BOXES[:1], BOXES[2:3]):
        values = noise(dtype, layout)
        wanted = pasted(values.double().numpy(), boxes, perm)
        np.testing.assert_array_equal(CF.cutmix(values, torch.eye(5), boxes, torch.tensor(perm))[0].double(), wanted)
        if layout != "expanded":
            edited = paste(values.clone(), boxes, from_front(torch.tensor(perm)), in_place=True)
            np.testing.assert_array_equal(edited.double().numpy(), wanted)
        assert torch.equal(values, noise(dtype, layout))


@layouts
@pytest.mark.parametrize("dtype", [*FLOATING, torch.uint8], ids=str)
def test_boxes_are_filled_bit_for_bit(form: str, dtype: torch.dtype, layout: str) -> None:
    for boxes in (BOXES[:, None], torch.stack([BOXES, BOXES.flip(0)], 1), BOXES[None, :2]):
        values, fill = noise(dtype, layout), 7.0
        wanted = values.double().numpy().copy()
        for number in range(len(values)):
            for left, top, right, bottom in boxes[number % len(boxes)].tolist():
                wanted[number, :, top:bottom, left:right] = fill
        np.testing.assert_array_equal(CF.cutout(values, boxes, fill=fill).double().numpy(), wanted)
        if layout != "expanded":
            np.testing.assert_array_equal(fill_boxes(values.clone(), boxes, fill, in_place=True).double(), wanted)
        assert torch.equal(values, noise(dtype, layout))


@pytest.mark.slow
@layouts
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("perm", PERMS, ids=str)
def test_samples_are_mixed(form: str, dtype: torch.dtype, layout: str, perm: list[int]) -> None:
    each = torch.tensor([0.0, 1.0, 0.5, 0.3, 0.9], dtype=torch.float64)
    for lam in (0.0, 0.3, 1.0, torch.tensor(0.7, dtype=torch.float64), each):
        values = noise(dtype, layout)
        old, share = values.double().numpy(), np.asarray(lam).reshape(-1, 1, 1, 1)
        wanted = share * old + (1 - share) * old[perm]
        near: dict[str, Any] = {"rtol": 0, "atol": 64 * torch.finfo(dtype).eps}
        np.testing.assert_allclose(CF.mixup(values, torch.eye(5), lam, torch.tensor(perm))[0].double(), wanted, **near)
        if layout != "expanded":
            edited = mix(values.clone(), lam, from_front(torch.tensor(perm)), in_place=True)
            np.testing.assert_allclose(edited.double().numpy(), wanted, **near)
        assert torch.equal(values, noise(dtype, layout))


@layouts
@pytest.mark.parametrize("dtype", [*FLOATING, torch.uint8], ids=str)
@pytest.mark.parametrize("block", [1, 300, 1 << 20])
def test_blocks_are_normalised(dtype: torch.dtype, layout: str, block: int) -> None:
    values, mean, std = noise(dtype, layout), [0.1, 0.5, 0.9], [0.5, 1.0, 2.0]
    with mock.patch.object(normalize, "BLOCK", block):
        edited = CF.normalize(values, mean, std)
    exact = values.double() / (255 if dtype == torch.uint8 else 1)
    wanted = (exact - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(edited.double(), wanted, rtol=4 * torch.finfo(edited.dtype).eps, atol=1e-6)
    assert torch.equal(values, noise(dtype, layout))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if isinstance(cases[0], EditCase)])
def test_a_plan_does_the_same_in_every_form(name: str) -> None:
    for case in CASES[name]:
        assert isinstance(case, EditCase)
        for task in case.tasks:
            plan = plan_for([case.algorithm], task, inputs=case.inputs[0], contract="always")
            batch = images(6, kind=case.inputs[0]), targets(6, task)
            found = []
            for size in (1, 1 << 60):
                with mock.patch.dict(forms.FROM_BYTES, dict.fromkeys(forms.FROM_BYTES, size)):
                    kept, given = plan(*batch, step=3), plan(batch[0].clone(), batch[1], step=3, donate=True)
                assert all(torch.equal(one, other) for one, other in zip(kept, given, strict=True))
                found.append(kept)
            torch.testing.assert_close(*found)


def test_gradients_pass_through_large_batches_as_through_small_ones(form: str) -> None:
    values = noise(torch.float64).requires_grad_()
    perm = torch.tensor(PERMS[0])
    mixed, _ = CF.mixup(values, torch.eye(5), 0.25, perm)
    (gradient,) = torch.autograd.grad(mixed.square().sum() / 2, values)
    kept, back = mixed.detach(), torch.argsort(perm)
    torch.testing.assert_close(gradient, 0.25 * kept + 0.75 * kept[back])
    assert torch.autograd.grad(CF.cutout(values, BOXES[:, None]).sum(), values)[0][3].sum() == 0


@pytest.mark.slow
@quickly
@given(st.permutations(range(7)))
def test_partners_come_once_each_and_before_they_are_changed(perm: list[int]) -> None:
    rows = [[number] for number in range(7)]
    for number, partner in forms.partners(rows, perm, list.copy, in_place=True):
        assert partner == [perm[number]]
        rows[number][0] = -1 - number
    assert rows == [[-1 - number] for number in range(7)]
