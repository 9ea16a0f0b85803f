"""The loop by hand trains as the recipe written out without an engine does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

import counterpoint as cp
from tests.integrations import recipe
from tests.integrations.recipe import Result, assert_close, assert_same

WAYS = {recipe.plain: True, recipe.split: False}
"""Each way to take microbatches, and whether each is a device batch with draws of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_the_loop_equals_the_recipe_by_hand_bit_for_bit(way: Callable[..., Result], microbatches: int) -> None:
    assert_same(way(microbatches), recipe.reference(microbatches, grouped=WAYS[way]))


def test_a_plan_that_is_called_edits_the_same_batches() -> None:
    """In a loop that clips and steps by itself, the plan of the methods that edit batches is enough."""
    recipe_plan, net = recipe.plan(), recipe.model()
    edits = [member.algorithm for member in recipe_plan.members if not member.declaration.hooks]
    plan = cp.compose(
        edits, loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=4, inputs="normalized", seed=17
    )
    sgd, losses = recipe.optimizer(net), []
    for step, (images, labels) in enumerate(recipe.batches()):
        x, y = plan(images, labels, step=step)
        loss = plan.loss(net(x), y)
        sgd.zero_grad()
        loss.backward()
        clip_grad_norm_(net.parameters(), recipe.THRESHOLD)
        sgd.step()
        losses.append(loss.item())
    assert plan.order == ("dense_targets", "label_smoothing", "cutout", "mixup")
    wanted = recipe.reference()
    assert_same(Result(recipe.weights(net), wanted.averaged, losses), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_sam_equals_its_formula(way: Callable[..., Result], microbatches: int) -> None:
    """The reference multiplies by rho / norm where SAM divides, and takes one norm: rounding differs."""
    trained = way(microbatches, sam=True)
    assert_close(trained, recipe.reference(microbatches, grouped=WAYS[way], sam=True), atol=1e-6)
    assert (trained.weights["1.weight"] - way(microbatches).weights["1.weight"]).abs().max() > 1e-3


@pytest.mark.slow
def test_every_method_of_the_recipe_matters() -> None:
    """So that a loop that drops one cannot pass."""
    by_hand = recipe.plan().order
    assert set(by_hand) == {"dense_targets", "label_smoothing", "cutout", "mixup", "gradient_clipping", "ema"}
    one, two = recipe.plain(2), recipe.split(2)
    assert not one.weights["1.weight"].equal(two.weights["1.weight"])  # draws by batch, or by step
    assert not one.weights["1.weight"].equal(one.averaged["1.weight"])
