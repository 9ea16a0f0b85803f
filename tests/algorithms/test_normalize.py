"""Normalize: against float64, its place among the others, and that fills are meant in a known scale."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any, Literal
from unittest import mock

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint.algorithms import EMA, CutMix, CutOut, LabelSmoothing, MixUp, Normalize, normalize
from tests.algorithms.batches import bits, dense, images, plan_for, run, targets
from tests.algorithms.cases import naive_cutout, naive_mixup, naive_normalizing, naive_smoothing
from tests.algorithms.digits import engine_for, resumed, train

METHOD = Normalize(mean=[0.1, 0.5, 0.9], std=[0.2, 0.3, 0.4])
PLAIN, LAST = torch.contiguous_format, torch.channels_last
Dtype = Literal["float32", "bfloat16", "float16"]
each_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
each_layout = pytest.mark.parametrize("given", [PLAIN, LAST], ids=["plain", "channels last"])


def naive(x: Tensor) -> np.ndarray[Any, Any]:
    white = 1 if x.is_floating_point() else 255
    reference = naive_normalizing(METHOD.mean, METHOD.std, white)
    return reference(x.double().numpy(), np.zeros(0), {}, "multiclass")[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_floats_keep_their_dtype(dtype: torch.dtype) -> None:
    x = images(4, torch.float64, kind="unit").to(dtype)
    edited = CF.normalize(x, METHOD.mean, METHOD.std)
    assert edited.dtype == dtype
    mean, std = (np.array(numbers)[:, None, None] for numbers in (METHOD.mean, METHOD.std))
    wanted = (x.double().numpy() - mean) / std
    np.testing.assert_allclose(edited.double().numpy(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_every_byte_comes_out_within_float32() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    edited = CF.normalize(x, [0.485], [0.229])
    assert edited.dtype == torch.float32
    wanted = (np.arange(256) / 255 - 0.485) / 0.229
    np.testing.assert_allclose(edited.flatten().double().numpy(), wanted, rtol=0, atol=3e-7)


@each_dtype
@each_layout
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kept", [torch.uint8, torch.float16, torch.float32, torch.float64], ids=str)
def test_every_layout_and_dtype_in_and_out(
    dtype: Dtype, given: torch.memory_format, channels_last: bool, kept: torch.dtype
) -> None:
    x = images(5, kind="bytes") if kept == torch.uint8 else images(5, kept, kind="unit")
    x = x.contiguous(memory_format=given)
    before, wanted = x.clone(), naive(x)
    for block in (1, 1000, 1 << 20):  # an image at a time, two at a time and one left, all at once
        with mock.patch.object(normalize, "BLOCK", block):
            edited = CF.normalize(x, METHOD.mean, METHOD.std, dtype=getattr(torch, dtype), channels_last=channels_last)
        assert edited.dtype == getattr(torch, dtype)
        assert edited.is_contiguous(memory_format=LAST if channels_last else given)
        error = 2 * torch.finfo(edited.dtype).eps
        np.testing.assert_allclose(edited.double().numpy(), wanted, rtol=error, atol=error)
    assert torch.equal(x, before)


def test_images_of_one_channel_and_views_can_become_channels_last() -> None:
    grey = images(5, kind="bytes")[:, :1]
    every_second = images(5, kind="bytes").repeat_interleave(2, dim=-1)[..., ::2]
    expanded = images(5, kind="bytes")[:1].expand(5, -1, -1, -1)
    for x in (grey, every_second, expanded):
        wanted = CF.normalize(x, [0.3], [0.2])
        for block in (1, 1 << 20):
            with mock.patch.object(normalize, "BLOCK", block):
                edited = CF.normalize(x, [0.3], [0.2], channels_last=True)
            assert edited.is_contiguous(memory_format=LAST)
            assert torch.equal(edited, wanted)


def test_only_what_is_rounded_last_is_rounded() -> None:
    """Half precision in between would be off by far more than its last digit."""
    x = torch.full((1, 1, 1, 1), 0.5003, dtype=torch.float64)
    edited = CF.normalize(x, [0.5], [1e-4], dtype=torch.bfloat16)
    assert edited.item() == torch.tensor(3.0, dtype=torch.bfloat16).item()


def test_wrong_numbers_and_dtypes_are_refused() -> None:
    with pytest.raises(cp.DataError, match=r"mean holds 3 numbers, and the images have 1 channels"):
        CF.normalize(torch.zeros(1, 1, 2, 2), [0.1, 0.2, 0.3], [1.0])
    with pytest.raises(cp.DataError, match=r"std holds 2 numbers, and the images have 3 channels"):
        CF.normalize(torch.zeros(1, 3, 2, 2), [0.1], [1.0, 1.0])
    with pytest.raises(cp.DataError, match=r"inputs holds uint8 or floating numbers, not torch.int64"):
        CF.normalize(torch.zeros(1, 1, 2, 2, dtype=torch.int64), [0.1], [1.0])
    with pytest.raises(cp.ArgumentError, match=r"dtype is torch.int32; it is one of torch.float16, "):
        CF.normalize(torch.zeros(1, 1, 2, 2), [0.1], [1.0], dtype=torch.int32)
    good = {"mean": [0.5], "std": [1.0]}
    for settings in ({"dtype": "float64"}, {"dtype": "half"}, {"channels_last": 1}, {"channels_last": None}):
        with pytest.raises(ValidationError):
            Normalize.model_validate({**good, **settings})
    for settings in ({}, {"mean": [0.5]}, {"mean": [], "std": [1.0]}, {"mean": [0.5], "std": [0.0]}):
        with pytest.raises(ValidationError):
            Normalize.model_validate(settings)
    with pytest.raises(ValidationError, match="mean holds 2 numbers and std 3"):
        Normalize(mean=[0.1, 0.2], std=[1.0, 1.0, 1.0])


def test_what_is_normalised_already_is_refused() -> None:
    for kind in ("normalized", "image", "features"):
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([METHOD], inputs=kind)
        assert [fault.code for fault in caught.value.faults] == ["needs-unmet"]


def test_a_fill_lives_in_the_scale_that_it_is_meant_in() -> None:
    x, y = images(6, kind="bytes"), targets(6)
    after = plan_for([CutOut(length=1.0, per_sample=False), METHOD], inputs="bytes")
    assert after.order == ("normalize", "cutout")
    before = plan_for([METHOD, CutOut(length=1.0, per_sample=False, fill=255, space="bytes")], inputs="bytes")
    assert before.order == ("cutout", "normalize")
    white = CF.normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8), METHOD.mean, METHOD.std)
    plain = CF.normalize(x, METHOD.mean, METHOD.std)
    for step in range(4):
        for plan, constant in ((after, torch.zeros(3)), (before, white.flatten())):
            edited, _ = plan(x, y, step=step)
            hole = (edited != plain).any(1, keepdim=True).expand_as(edited)
            assert hole.any()
            assert torch.equal(edited[hole], constant.view(1, 3, 1, 1).expand_as(edited)[hole])


def test_mixing_comes_after_it_and_the_list_does_not_matter() -> None:
    x, y = images(5, kind="bytes"), targets(5)
    first = None
    for listed in permutations([METHOD, MixUp(), CutOut(), LabelSmoothing()]):
        plan = plan_for(listed, inputs="bytes", contract="always", model_inputs={"normalized"})
        assert plan.order.index("normalize") < plan.order.index("cutout") < plan.order.index("mixup")
        result = [bits(part) for part in plan(x, y, step=2)]
        first = first or result
        assert result == first
    pasted = plan_for([CutMix(), METHOD], inputs="bytes", contract="always")
    swapped = plan_for([CutMix(before="normalize"), METHOD], inputs="bytes", contract="always")
    assert (pasted.order[-2:], swapped.order[-2:]) == (("normalize", "cutmix"), ("cutmix", "normalize"))
    assert [bits(part) for part in pasted(x, y, step=1)] == [bits(part) for part in swapped(x, y, step=1)]


@pytest.mark.slow
@each_dtype
@each_layout
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_chain_in_half_precision_and_channels_last(
    dtype: Dtype, given: torch.memory_format, channels_last: bool
) -> None:
    method = METHOD.model_copy(update={"dtype": dtype, "channels_last": channels_last})
    chain = [method, CutOut(), MixUp(alpha=1.0), LabelSmoothing(smoothing=0.2)]
    plan = plan_for(chain, inputs="bytes", contract="off")
    fast = replace(plan, backend="eager")
    torch._dynamo.reset()
    x, y = images(5, kind="bytes").contiguous(memory_format=given), targets(5)
    for step in range(3):
        edited, rows, draws = run(plan, x, y, step)
        wanted, wanted_rows = naive(x), dense(y)
        for name, reference in (
            ("label_smoothing", naive_smoothing(0.2)),
            ("cutout", naive_cutout(0.0)),
            ("mixup", naive_mixup),
        ):
            wanted, wanted_rows = reference(wanted, wanted_rows, {"": draws.get(name)}, "multiclass")
        for found, found_rows in ((edited, rows), fast(x, y, step=step)):
            assert (found.dtype, found_rows.dtype) == (getattr(torch, dtype), torch.float32)
            assert found.is_contiguous(memory_format=LAST if channels_last else given)
            error = 4 * torch.finfo(found.dtype).eps * np.abs(wanted).max()
            np.testing.assert_allclose(found.double().numpy(), wanted, rtol=0, atol=error)
            np.testing.assert_allclose(found_rows.numpy(), wanted_rows, rtol=0, atol=1e-6)


@each_dtype
def test_evaluation_gets_the_same_dtype_and_layout(dtype: Dtype) -> None:
    method = METHOD.model_copy(update={"dtype": dtype, "channels_last": True})
    prepared, _ = plan_for([method, MixUp()], inputs="bytes").prepare(images(3, kind="bytes"), targets(3))
    assert prepared.dtype == getattr(torch, dtype)
    assert prepared.is_contiguous(memory_format=LAST)


@pytest.mark.slow
def test_it_trains_on_digits_and_resumes_bit_for_bit() -> None:
    methods = (Normalize(mean=[0.305], std=[0.376]), CutOut(length=0.3), MixUp(p=0.5), EMA(half_life=5))
    losses = train(engine_for(*methods), 56)
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
    whole, parts = resumed(*methods, first=3, then=4)
    assert whole == parts
