"""The parts of Hugging Face's Trainer that it does not promise are there, and do what they are used for."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from counterpoint.integrations.transformers.compat import PrivateTrainer
from tests.integrations import hf, recipe
from tests.integrations.lit import compose

TAKES = {
    "_prepare_inputs": ["self", "inputs"],
    "_issue_warnings_after_load": ["self", "load_result"],
    "save_model": ["self", "output_dir", "_internal_call"],
    "train": ["self", "resume_from_checkpoint"],
    "get_batch_samples": ["self", "epoch_iterator", "num_batches", "device"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    "prediction_step": ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"],
    "evaluation_loop": [
        "self",
        "dataloader",
        "description",
        "prediction_loss_only",
        "ignore_keys",
        "metric_key_prefix",
    ],
}


@pytest.mark.parametrize("name", TAKES)
def test_each_method_takes_what_it_is_given(name: str) -> None:
    assert list(signature(getattr(Trainer, name)).parameters)[: len(TAKES[name])] == TAKES[name]


class Saves(PrivateTrainer):
    """Notes which saved models are checkpoints."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.saved: list[tuple[str | None, bool]] = []
        self.loads = 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        name = None if output_dir is None else Path(output_dir).name
        self.saved.append((name, self.is_checkpoint(output_dir, _internal_call)))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        super()._issue_warnings_after_load(load_result)
        self.loads += 1


class Net(hf.Net):
    """A model that computes its own loss."""

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        logits = super().forward(pixel_values)["logits"]
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_checkpoints_are_told_from_other_saves_and_loaded_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    trainer = Saves(Net(*recipe.model()), hf.arguments(tmp_path, **saving), train_dataset=hf.samples())
    trainer.train()
    trainer.save_model(str(tmp_path / "checkpoint-4"))  # the user's own call
    trainer.save_model(str(tmp_path / "mine"))
    trainer.save_model(_internal_call=True)  # as before an upload to the hub
    assert trainer.saved == [
        ("checkpoint-2", True),
        ("checkpoint-4", True),
        ("checkpoint-4", False),
        ("mine", False),
        (None, False),
    ]
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-4")
    trainer.args.max_steps = 5
    trainer.train(resume_from_checkpoint=True)
    assert trainer.loads == 1


def test_a_batch_is_moved_to_the_device(tmp_path: Path) -> None:
    trainer = hf.trainer(tmp_path, compose())
    moved: list[Any] = []

    class Moves(torch.Tensor):
        def to(self, *given: Any, **named: Any) -> torch.Tensor:  # type: ignore[override]
            moved.append((given, named))
            return self

    batch = {"pixel_values": torch.zeros(2).as_subclass(Moves)}
    assert set(trainer.batch_on_device(batch)) == {"pixel_values"}
    assert "cpu" in str(moved)
