"""What the tests of Lightning share: the recipe's model as a LightningModule, its loader, and a quiet trainer."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import counterpoint as cp
from tests.integrations import recipe

QUIET = pytest.mark.filterwarnings(
    "ignore:The '.*dataloader' does not have many workers",
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning",
)
"""What Lightning warns of in every run."""


class Module(pl.LightningModule):
    """The recipe's model, as one writes it for Lightning."""

    def __init__(self, *, manual_parts: int = 0) -> None:
        super().__init__()
        self.net = recipe.model()
        self.criterion = nn.CrossEntropyLoss()
        self.automatic_optimization = not manual_parts
        self.manual_parts = manual_parts

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        if self.automatic_optimization:
            return self.criterion(self(inputs), targets)
        first, last = batch_idx % self.manual_parts == 0, (batch_idx + 1) % self.manual_parts == 0
        optimizer = self.optimizers()
        if first:
            optimizer.zero_grad()
        loss = self.criterion(self(inputs), targets) / self.manual_parts
        self.manual_backward(loss)
        if last:
            optimizer.step()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return recipe.optimizer(self.net)


def make_trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_checkpointing": False, **quiet}
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **settings})


def loader(microbatches: int = 1) -> DataLoader[Any]:
    return DataLoader(recipe.items(microbatches), batch_size=recipe.SIZE)


def compose(*methods: Any, **facts: Any) -> cp.Plan:
    stated = {"loss": nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": recipe.CLASSES, "seed": 17}
    return cp.compose(list(methods), **{**stated, "inputs": "normalized", "contract": "always", **facts})
