"""Two processes in Lightning's loop equal one that trains on the batches of both."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

import counterpoint as cp
from tests.integrations import recipe
from tests.integrations.lit import Module
from tests.integrations.lit_ranks import mine


@pytest.mark.long
@pytest.mark.parametrize(("sam", "parts"), [(False, 1), (True, 2)], ids=["recipe", "sam-2"])
def test_two_processes_equal_one_with_the_batches_of_both(sam: bool, parts: int, tmp_path: Path) -> None:
    # A process of its own forks: one that has run other tests may hold locks that its children wait for.
    script = [sys.executable, "-m", "tests.integrations.lit_ranks", tmp_path, "sam" if sam else "plain", str(parts)]
    done = subprocess.run(
        script, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    alone = together(recipe.plan(sam=sam), parts)
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
