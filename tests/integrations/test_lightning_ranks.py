"""Two processes in Lightning's loop equal one that trains on the batches of both."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint.integrations.lightning import CounterpointCallback
from tests.integrations import recipe
from tests.integrations.lit import QUIET, Module, make_trainer

pytestmark = QUIET


class Ranked(Module):
    """Trains on every second batch, those of its process."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(mine(self.trainer.global_rank), batch_size=None)


def mine(rank: int) -> list[tuple[Tensor, Tensor]]:
    return recipe.batches(2)[rank::2]


class Reports(pl.Callback):
    """Writes what each process ended with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (callback,) = (held for held in trainer.callbacks if isinstance(held, CounterpointCallback))
        ended = {**pl_module.state_dict(), **callback.state_dict()}
        torch.save(ended, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.parametrize(("sam", "parts"), [(False, 1), (True, 2)], ids=["recipe", "sam-2"])
def test_two_processes_equal_one_with_the_batches_of_both(sam: bool, parts: int, tmp_path: Path) -> None:
    plan = recipe.plan(sam=sam)
    settings = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}
    callbacks = [CounterpointCallback(plan, criterion="criterion"), Reports(tmp_path)]
    make_trainer(*callbacks, accumulate_grad_batches=parts, **settings).fit(Ranked())
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    alone = together(plan, parts)
    # Means over the processes are summed in another order than those over the batches of one.
    for name, value in {**alone.model.state_dict(), **alone.state_dict()}.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def together(plan: cp.Plan, parts: int) -> cp.Engine:
    """Train one model on the batches of both, each edited with the draws of its process."""
    module = Module()
    engine, other = (cp.Engine(plan, model=module, rank=rank) for rank in (0, 1))
    engine.optimizer = module.configure_optimizers()
    batches = list(zip(mine(0), mine(1), strict=True))
    for start in range(0, len(batches), parts):
        with ExitStack() as opened:
            edited = [
                opened.enter_context(one.batch(*batch))
                for pair in batches[start : start + parts]
                for one, batch in zip((engine, other), pair, strict=True)
            ]

            def closure(edited: list[cp.Batch] = edited) -> Tensor:
                losses = [plan.loss(module(batch.inputs), batch.targets) / len(edited) for batch in edited]
                torch.stack(losses).sum().backward()
                return torch.stack(losses).sum().detach()

            engine.step(closure)
    return engine
