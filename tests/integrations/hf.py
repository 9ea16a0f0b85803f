"""Small trainers of Hugging Face's kind for the tests: no downloads, no reports, one CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import TrainingArguments

import counterpoint as cp
from counterpoint.integrations.transformers import CounterpointTrainer
from tests.integrations import recipe


class Net(nn.Sequential):
    """The recipe's model as one of Hugging Face's that must never see labels."""

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        assert labels is None
        return {"logits": super().forward(pixel_values)}


class Noting(CounterpointTrainer):
    """Notes the loss of each step."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.losses: list[float] = []
        super().__init__(*given, **named)

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        loss = super().training_step(*given, **named)
        if self.accelerator.sync_gradients:
            self.losses.append(loss.item())
        return loss


class Ordered(Noting):
    """Takes the samples in their order."""

    def _get_train_sampler(self, *given: Any) -> SequentialSampler:
        assert self.train_dataset is not None
        return SequentialSampler(self.train_dataset)


def net() -> Net:
    """The recipe's model, fresh."""
    return Net(*recipe.model())


def samples(microbatches: int = 1) -> list[dict[str, Tensor]]:
    """The recipe's samples."""
    return [{"pixel_values": image, "labels": label} for image, label in recipe.items(microbatches)]


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Arguments with which the Trainer adds nothing to the recipe."""
    settings: dict[str, Any] = {
        "num_train_epochs": 1,
        "per_device_train_batch_size": recipe.SIZE,
        "per_device_eval_batch_size": 16,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": True,
    }
    return TrainingArguments(str(folder), **{**settings, **changes})


def trainer(
    folder: Path,
    plan: cp.Plan,
    model: nn.Module | None = None,
    options: dict[str, Any] | None = None,
    *,
    kind: type[Noting] = Ordered,
    **changes: Any,
) -> Noting:
    """A trainer of the recipe's model on its samples; ``changes`` are of the arguments."""
    made = net() if model is None else model
    args = arguments(folder, **changes)
    given: dict[str, Any] = {
        "train_dataset": samples(args.gradient_accumulation_steps),
        "eval_dataset": samples()[:40],
        "optimizers": (recipe.optimizer(made), None),
    }
    return kind(made, args, plan=plan, **{**given, **(options or {})})


def result(trained: Noting) -> recipe.Result:
    """What a run ended with."""
    return recipe.result(trained.engine, trained.losses)


def batch(count: int = 8) -> dict[str, Tensor]:
    """The first samples, collated."""
    images, labels = (torch.stack(part) for part in zip(*recipe.items()[:count], strict=True))
    return {"pixel_values": images, "labels": labels}
