"""Images whose channels come last are refused: their rows would be taken for channels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import counterpoint as cp

pytestmark = pytest.mark.kind("7e")
PLANS = {
    inputs: cp.compose(["cutout"], task="multiclass", num_classes=3, inputs=inputs, model_inputs={inputs})
    for inputs in ("bytes", "unit", "normalized")
}
side = st.integers(5, 20)


def images(inputs: str, *shape: int) -> torch.Tensor:
    return torch.zeros(2, *shape, dtype=torch.uint8 if inputs == "bytes" else torch.float32)


@pytest.mark.slow
@given(st.sampled_from(sorted(PLANS)), side, side, st.sampled_from([1, 3, 4]))
def test_channels_last_are_refused_and_the_fix_works(inputs: str, height: int, width: int, channels: int) -> None:
    given = images(inputs, height, width, channels)
    with pytest.raises(cp.DataError, match=r"looks like \(N, H, W, C\): give inputs\.permute\(0, 3, 1, 2\)"):
        PLANS[inputs](given, torch.tensor([0, 1]), step=0)
    edited, _ = PLANS[inputs](given.permute(0, 3, 1, 2), torch.tensor([0, 1]), step=0)
    assert edited.shape == (2, channels, height, width)


@given(st.sampled_from(sorted(PLANS)), st.integers(1, 64), side, side)
def test_channels_first_are_taken_however_many(inputs: str, channels: int, height: int, width: int) -> None:
    """Also where the memory has them last."""
    given = images(inputs, channels, height, width).to(memory_format=torch.channels_last)
    edited, _ = PLANS[inputs](given, torch.tensor([0, 1]), step=0)
    assert edited.shape == given.shape


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4, 3), (8, 2, 2), (64, 4, 4), (3, 5, 1), (1, 100, 3)])
def test_small_images_are_taken(shape: tuple[int, ...]) -> None:
    """What could be either is taken as it is said to be."""
    PLANS["unit"](images("unit", *shape), torch.tensor([0, 1]), step=0)
