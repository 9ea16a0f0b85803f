"""Two processes in Hugging Face's Trainer equal one that trains on the batches of both."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.integrations.state_file import STATE_FILE
from tests.integrations import hf, recipe


@pytest.mark.long
@pytest.mark.parametrize(("sam", "microbatches"), [(False, 1), (True, 2)], ids=["recipe", "sam-2"])
def test_two_processes_equal_one_with_the_batches_of_both(sam: bool, microbatches: int, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = ["-m", "tests.integrations.hf_ranks", tmp_path, "sam" if sam else "plain", str(microbatches)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([*launch, *script], capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert (tmp_path / "run" / f"checkpoint-{recipe.STEPS}" / STATE_FILE).exists()
    alone = together(recipe.plan(sam=sam), microbatches)
    wanted = {**alone.model.state_dict(), **alone.state_dict(), "eval_loss": evaluated(alone)}
    # Means over the processes are summed in another order than those over the batches of one.
    for name, value in wanted.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def together(plan: cp.Plan, microbatches: int) -> cp.Engine:
    """Train one model on the batches of both, each edited with the draws of its process.

    Of the batches in their order, each process takes every other one.
    """
    net = recipe.model()
    engine, other = (cp.Engine(plan, model=net, rank=rank) for rank in (0, 1))
    engine.optimizer = recipe.optimizer(net)
    batches = recipe.batches(2 * microbatches)
    for start in range(0, len(batches), 2 * microbatches):
        mine, theirs = (batches[start + rank : start + 2 * microbatches : 2] for rank in (0, 1))
        with ExitStack() as opened:
            edited = [
                opened.enter_context(one.batch(*batch))
                for one, group in ((engine, mine), (other, theirs))
                for batch in group
            ]

            def closure(edited: list[cp.Batch] = edited) -> Tensor:
                loss = torch.stack([plan.loss(net(batch.inputs), batch.targets) for batch in edited]).mean()
                loss.backward()
                return loss.detach()

            engine.step(closure)
    return engine


def evaluated(engine: cp.Engine) -> Tensor:
    """The loss on the evaluation data, with the evaluation weights, of which no process saw a sample twice."""
    whole = hf.batch(40)
    with engine.evaluation(), torch.no_grad():
        return nn.functional.cross_entropy(engine.model(whole["pixel_values"]), whole["labels"])
