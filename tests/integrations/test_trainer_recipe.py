"""The recipe in Counterpoint's own trainer, from a config."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

import counterpoint as cp
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.data.sampler import EpochSampler
from tests.integrations import recipe
from tests.integrations.recipe import Result, assert_close, assert_same


def train(folder: Path, microbatches: int, *, sam: bool = False) -> Result:
    """The trainer shuffles: the samples lie so that it takes them in the recipe's order."""
    size, items = recipe.SIZE * microbatches, recipe.items(microbatches)
    order = [index for batch in EpochSampler(len(items), size, seed=recipe.SEED) for _, index in batch]
    lying = dict(zip(order, items, strict=True))
    trainer = cp.Trainer(
        {
            "seed": recipe.SEED,
            "task": "multiclass",
            "data": {"name": "digits", "batch_size": size},
            "optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 0.0},
            "scheduler": "constant",
            "max_duration": f"{recipe.STEPS}ba",
            "accumulate": microbatches,
            "algorithms": recipe.methods(sam=sam),
            "run_dir": str(folder),
        },
        model=recipe.model(),
        train_data=[lying[index] for index in range(len(items))],
        eval_data=items[:8],
        spec=DataSpec("multiclass", "normalized", recipe.SHAPE, recipe.CLASSES),
    )
    trainer.fit()
    return Result(recipe.weights(trainer.model), load_file(folder / "model.safetensors"), [])


def without_losses(result: Result) -> Result:
    return Result(result.weights, result.averaged, [])


@pytest.mark.slow
def test_it_trains_as_the_plain_loop_bit_for_bit(tmp_path: Path) -> None:
    assert_same(train(tmp_path, 1), without_losses(recipe.plain()))


@pytest.mark.slow
@pytest.mark.parametrize(("microbatches", "sam"), [(2, False), (1, True), (2, True)])
def test_it_trains_as_the_loop_by_hand(microbatches: int, sam: bool, tmp_path: Path) -> None:
    """Microbatches count by their share of the targets' mass, a half but for rounding; SAM is written out apart."""
    assert_close(
        train(tmp_path, microbatches, sam=sam), recipe.reference(microbatches, grouped=False, sam=sam), atol=1e-6
    )
