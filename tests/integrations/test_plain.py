"""The loop by hand trains as the recipe written out without an engine does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integrations import recipe
from tests.integrations.recipe import Result, assert_close, assert_same

WAYS = {recipe.plain: True, recipe.split: False}
"""Each way to take microbatches, and whether each is a device batch with draws of its own."""


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_the_loop_equals_the_recipe_by_hand_bit_for_bit(way: Callable[..., Result], microbatches: int) -> None:
    assert_same(way(microbatches), recipe.reference(microbatches, grouped=WAYS[way]))


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_sam_equals_its_formula(way: Callable[..., Result], microbatches: int) -> None:
    """The reference multiplies by rho / norm where SAM divides, and takes one norm: rounding differs."""
    trained = way(microbatches, sam=True)
    assert_close(trained, recipe.reference(microbatches, grouped=WAYS[way], sam=True), atol=1e-6)
    assert (trained.weights["1.weight"] - way(microbatches).weights["1.weight"]).abs().max() > 1e-3


def test_every_method_of_the_recipe_matters() -> None:
    """So that a loop that drops one cannot pass."""
    by_hand = recipe.plan().order
    assert set(by_hand) == {"dense_targets", "label_smoothing", "cutout", "mixup", "gradient_clipping", "ema"}
    one, two = recipe.plain(2), recipe.split(2)
    assert not one.weights["1.weight"].equal(two.weights["1.weight"])  # draws by batch, or by step
    assert not one.weights["1.weight"].equal(one.averaged["1.weight"])
