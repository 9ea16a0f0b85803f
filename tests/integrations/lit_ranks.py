"""Train in Lightning on two processes: ``python -m tests.integrations.lit_ranks FOLDER sam|plain PARTS``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from counterpoint.integrations.lightning import CounterpointCallback
from tests.integrations import recipe
from tests.integrations.lit import Module, make_trainer


class Ranked(Module):
    """Trains on every second batch, those of its process."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(mine(self.trainer.global_rank), batch_size=None)


class Reports(pl.Callback):
    """Writes what each process ended with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (callback,) = (held for held in trainer.callbacks if isinstance(held, CounterpointCallback))
        ended = {**pl_module.state_dict(), **callback.state_dict()}
        torch.save(ended, self.folder / f"{trainer.global_rank}.pt")


def mine(rank: int) -> list[tuple[Tensor, Tensor]]:
    return recipe.batches(2)[rank::2]


def train(folder: Path, *, sam: bool, parts: int) -> None:
    callbacks = [CounterpointCallback(recipe.plan(sam=sam), criterion="criterion"), Reports(folder)]
    settings = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    make_trainer(*callbacks, accumulate_grad_batches=parts, **settings).fit(Ranked())


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(Path(sys.argv[1]), sam=sys.argv[2] == "sam", parts=int(sys.argv[3]))
