"""What Hugging Face's Trainer writes of a run with a plan, and a run that goes on from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, TrainerCallback
from transformers.modeling_outputs import ImageClassifierOutput

import counterpoint as cp
from counterpoint import CheckpointError
from counterpoint.integrations.state_file import STATE_FILE
from tests.integrations import hf, recipe

SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 6}


class Dropping(hf.Net):
    """With numbers from torch's global generator in each forward pass."""

    @staticmethod
    def fresh() -> Dropping:
        flatten, first, tanh, last = recipe.model()
        return Dropping(flatten, first, tanh, nn.Dropout(0.3), last)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_run_goes_on_bit_for_bit(microbatches: int, tmp_path: Path) -> None:
    """From the middle of the second epoch, with a shuffle, dropout, a schedule of the learning rate and SAM."""

    def make(folder: str) -> hf.Noting:
        net = Dropping.fresh()
        optimizer = recipe.optimizer(net)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
        data = hf.samples(microbatches)[: 10 * microbatches * recipe.SIZE]
        options = {"optimizers": (optimizer, schedule), "train_dataset": data}
        accumulated = {"gradient_accumulation_steps": microbatches, "num_train_epochs": 2}
        return hf.trainer(
            tmp_path / folder, recipe.plan(sam=True), net, options, kind=hf.Noting, **SAVING, **accumulated
        )

    whole = make("whole")
    whole.train()
    cut = make("cut")
    cut.add_callback(StopsAt(16))
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    again = make("cut")
    again.train(resume_from_checkpoint=True)
    assert again.losses == whole.losses[12:]
    one, other = hf.result(again), hf.result(whole)
    assert_equal(one.weights, other.weights)
    assert_equal(one.averaged, other.averaged)
    cut.losses.clear()
    cut.pop_callback(StopsAt)
    # The same object, after it was interrupted.
    cut.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-12"))
    assert cut.losses == again.losses
    assert_equal(hf.result(cut).averaged, other.averaged)


class StopsAt(TrainerCallback):
    """Interrupts a run in the middle of a step, between its batches if there are several."""

    def __init__(self, step: int = 0) -> None:
        self.step = step

    def on_substep_end(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt

    on_optimizer_step = on_substep_end


@pytest.mark.slow
def test_a_checkpoint_holds_the_weights_in_training_and_the_methods_state(tmp_path: Path) -> None:
    trainer = hf.trainer(tmp_path, recipe.plan(), max_steps=6, **SAVING)
    trainer.train()
    done = hf.result(trainer)
    checkpoint = tmp_path / "checkpoint-6"
    assert_equal(weights_of(checkpoint), done.weights)
    with safe_open(checkpoint / STATE_FILE, "pt") as file:
        assert file.metadata() == {"fingerprint": recipe.plan().fingerprint}
        assert int(file.get_tensor("batches")) == 6
        assert torch.equal(file.get_tensor("ema.weights.1.bias"), done.averaged["1.bias"])


@pytest.mark.slow
def test_what_is_saved_by_hand_are_the_evaluation_weights(tmp_path: Path) -> None:
    """They load into the plain model."""
    trainer = hf.trainer(tmp_path / "run", recipe.plan(), max_steps=4)
    trainer.train()
    done = hf.result(trainer)
    trainer.save_model(str(tmp_path / "out"))
    recipe.model().load_state_dict(weights_of(tmp_path / "out"))
    assert_equal(weights_of(tmp_path / "out"), done.averaged)
    assert_equal(recipe.weights(trainer.model), done.weights)
    assert not (tmp_path / "out" / STATE_FILE).exists()


class Config(PretrainedConfig):
    model_type = "recipe"


class Pretrained(PreTrainedModel):
    """The recipe's model as one of the library's own, whose loss for dense labels would be another."""

    config_class = Config
    main_input_name = "pixel_values"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.net = recipe.model()
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The recipe's are there."""

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        logits = self.net(pixel_values)
        loss = None if labels is None else nn.functional.binary_cross_entropy_with_logits(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


@pytest.mark.slow
def test_a_model_of_the_library_is_loaded_from_what_was_saved(tmp_path: Path) -> None:
    trainer = hf.trainer(
        tmp_path / "run", recipe.plan(), Pretrained(Config()), {"optimizers": (None, None)}, max_steps=3
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    loaded = Pretrained.from_pretrained(tmp_path / "out")
    assert_equal(recipe.weights(loaded), hf.result(trainer).averaged)


@pytest.mark.slow
def test_the_best_model_comes_with_its_average(tmp_path: Path) -> None:
    """Judged by its evaluation weights, it is given back with these, not with the average at the end."""
    losses = iter([3.0, 1.0, 2.0])
    averages: list[dict[str, torch.Tensor]] = []

    def measure(prediction: Any) -> dict[str, float]:
        averages.append(recipe.weights(trainer.model))
        return {"judged": next(losses, 0.0)}

    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_judged", "greater_is_better": False}
    every = {"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3}
    trainer = hf.trainer(tmp_path, recipe.plan(), None, {"compute_metrics": measure}, max_steps=9, **best, **every)
    trainer.train()
    assert trainer.state.best_global_step == 6
    assert len(averages) == 3
    trainer.evaluate()
    assert_equal(averages[3], averages[1])
    assert_equal(recipe.weights(trainer.model), weights_of(tmp_path / "checkpoint-6"))


def cut_short(checkpoint: Path) -> None:
    file = checkpoint / STATE_FILE
    file.write_bytes(file.read_bytes()[:-5])


def removed(checkpoint: Path) -> None:
    (checkpoint / STATE_FILE).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("harm", [cut_short, removed])
def test_a_checkpoint_that_is_not_whole_is_refused(harm: Callable[[Path], None], tmp_path: Path) -> None:
    trainer = hf.trainer(tmp_path, recipe.plan(), max_steps=6, **SAVING)
    trainer.train()
    harm(tmp_path / "checkpoint-6")
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE} is not there or not whole"):
        hf.trainer(tmp_path, recipe.plan(), **SAVING).train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_a_checkpoint_of_another_plan_or_another_step_is_refused(tmp_path: Path) -> None:
    trainer = hf.trainer(tmp_path, recipe.plan(), max_steps=12, **SAVING)
    trainer.train()
    with pytest.raises(CheckpointError, match=f"of the plan {recipe.plan().fingerprint}"):
        hf.trainer(tmp_path, recipe.plan(sam=True)).train(resume_from_checkpoint=True)
    shutil.copy(tmp_path / "checkpoint-6" / STATE_FILE, tmp_path / "checkpoint-12" / STATE_FILE)
    with pytest.raises(cp.CounterpointError, match="trained 6 batches, and would go on from 12"):
        hf.trainer(tmp_path, recipe.plan()).train(resume_from_checkpoint=True)
