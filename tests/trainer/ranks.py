"""Runs of several processes on one machine, over gloo; run as a program by test_ranks, which reads what it writes.

``python -m tests.trainer.ranks FOLDER`` imports everything once, then forks each group of processes as a launcher
would start it. Each process writes what it found to ``FOLDER/GROUP-RANK.json``, and what it printed to ``.out``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import counterpoint as cp
from counterpoint import CounterpointError
from counterpoint.trainer import DataSpec
from counterpoint.trainer.loop.loop import Loop
from counterpoint.trainer.loop.nonfinite import describe_draws
from tests.trainer import sharded
from tests.trainer.alike import CLASSES, WEIGHT, PairMix, small_model, uneven
from tests.trainer.support import blobs, config

UNMIXED = ["label_smoothing", "ema", {"name": "sam", "p": 0.5}, "gradient_clipping"]


class Stopped(Exception):
    """A run ends here, as if its processes had been killed between two batches."""


def train_uneven(folder: Path, processes: int, *, resume: bool = False, **keys: Any) -> cp.trainer.Summary:
    """Train on uneven data, in as many processes as there are, with batches that make 24 examples together."""
    train, evaluation = uneven()
    settings = {
        "data": {"name": "digits", "batch_size": 24 // processes},
        "model": None,
        "loss": {"name": "cross_entropy", "weight": WEIGHT},
        "algorithms": [PairMix(), *UNMIXED],
        "max_duration": "8ba",
        "eval_every": "4ba",
        "checkpoint_every": "4ba",
    }
    spec = DataSpec("multiclass", "features", (6,), CLASSES)
    chosen = config(folder, **{**settings, **keys})
    trainer = cp.Trainer(chosen, model=small_model(), train_data=train, eval_data=evaluation, spec=spec)
    return trainer.fit(resume=resume)


def stop() -> None:
    """End the run."""
    raise Stopped


@contextmanager
def stopping(step: int, end: Callable[[], None] = stop) -> Iterator[None]:
    """Arrange that training ends in this process once ``step`` device batches are done."""
    trained = Loop._train

    def ending(self: Loop, *batch: Tensor) -> None:
        if self.step == step:
            end()
        trained(self, *batch)

    with patch.object(Loop, "_train", ending):
        yield


def same_as_one(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """What one process trains, too: means over uneven shares, with parts and without."""
    train_uneven(folder / "means", processes)
    train_uneven(folder / "parts", processes, accumulate=3)
    return {}


def methods(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """A run from a config, as in one process."""
    algorithms = ["ema", {"name": "sam", "rho": 0.3, "every": 2}, {"name": "gradient_clipping", "threshold": 0.2}]
    data = {"name": "digits", "batch_size": 128 // processes}
    keys = {"max_duration": "4ba", "eval_every": "2ba", "algorithms": algorithms, "accumulate": 2, "data": data}
    cp.Trainer(config(folder / "methods", **keys)).fit()
    return {}


def draws(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """The draws of this process, printed."""
    loss = nn.CrossEntropyLoss()
    plan = cp.compose(
        [PairMix(), {"name": "cutout", "p": 0.5}], loss=loss, task="multiclass", num_classes=CLASSES, seed=17
    )
    engine = cp.Engine(plan, model=nn.Flatten(), optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    lines = []
    for _ in range(8):
        with engine.batch(torch.rand(4, 1, 8, 8), torch.arange(4)):
            lines.append(describe_draws(engine.draws()))
    return {"lines": lines, "rank": engine.rank}


def resuming(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """A run that was cut short and gone on with, and one that was not."""
    keys = {
        "data": {"name": "digits", "batch_size": 32},
        "model": {"name": "small_cnn", "width": 4},
        "algorithms": ["mixup", {"name": "cutout", "p": 0.5}, {"name": "ema", "half_life": 4}],
        "max_duration": "6ba",
        "eval_every": "3ba",
        "checkpoint_every": "2ba",
    }
    cp.Trainer(config(folder / "through", **keys)).fit()
    with stopping(5), suppress(Stopped):
        cp.Trainer(config(folder / "cut", **keys)).fit()
    cp.Trainer(config(folder / "cut", **keys)).fit(resume=True)
    with stopping(5), suppress(Stopped):
        train_uneven(folder / "fewer", 2, algorithms=UNMIXED)  # which one process will go on with
    return {}


def differing(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """Processes that do not find the same."""
    keys = {"max_duration": "1ba", "seed": rank}
    try:
        cp.Trainer(config(folder / "differing", **keys)).fit()
    except CounterpointError as error:
        return {"error": str(error), "type": type(error).__name__}
    return {}


def elsewhere(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """A folder that is not shared: the first process finds a checkpoint in its own, and the other none."""
    own = folder / ("fewer" if rank == 0 else "nowhere")
    try:
        train_uneven(own, 2, resume=True, algorithms=UNMIXED)
    except CounterpointError as error:
        return {"error": str(error), "type": type(error).__name__}
    return {}


def few_to_evaluate(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """An evaluation for which some processes have no example."""
    data = blobs(64, CLASSES, (6,))
    evaluation = TensorDataset(*(part[: processes - 1] for part in data.tensors))
    spec = DataSpec("multiclass", "features", (6,), CLASSES)
    keys = {"data": {"name": "digits", "batch_size": 4}, "max_duration": "1ba"}
    trainer = cp.Trainer(config(None, **keys), model=small_model(), train_data=data, eval_data=evaluation, spec=spec)
    return trainer.fit().metrics


def dying(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """The second process is killed, and the first is to notice."""
    began = time.monotonic()
    killed = stopping(5, lambda: os.kill(os.getpid(), signal.SIGKILL)) if rank == 1 else nullcontext()
    try:
        with killed:
            train_uneven(folder / "dying", processes)
    except CounterpointError as error:
        return {"error": str(error), "type": type(error).__name__, "seconds": time.monotonic() - began}
    return {}


def failing(folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """The second process has a loss that is no number, and says so; the first ends with it."""
    train, evaluation = uneven()
    if rank == 1:
        train = TensorDataset(torch.full_like(train.tensors[0], float("inf")), train.tensors[1])
    spec = DataSpec("multiclass", "features", (6,), CLASSES)
    keys = {"data": {"name": "digits", "batch_size": 8}, "max_duration": "4ba"}
    trainer = cp.Trainer(config(None, **keys), model=small_model(), train_data=train, eval_data=evaluation, spec=spec)
    try:
        trainer.fit()
    except CounterpointError as error:
        return {"error": str(error), "type": type(error).__name__}
    return {}


Check = Callable[[Path, int, int], dict[str, Any]]
GROUPS: dict[str, tuple[int, tuple[Check, ...]]] = {
    "two": (
        2,
        (same_as_one, methods, draws, resuming, differing, elsewhere, few_to_evaluate, *sharded.CHECKS),
    ),
    "four": (4, (same_as_one, draws, few_to_evaluate, *sharded.CHECKS)),
    "dying": (2, (dying,)),
    "failing": (2, (failing,)),
}


def process(group: str, rank: int, port: int, folder: Path) -> None:
    """Do the checks of a group as one of its processes."""
    count, checks = GROUPS[group]
    os.environ |= {
        "ACCELERATE_USE_CPU": "true",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    home = folder / group
    home.mkdir(exist_ok=True)
    with (folder / f"{group}-{rank}.out").open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        PartialState(cpu=True)
        found = {check.__name__: check(home, rank, count) for check in checks}
        (folder / f"{group}-{rank}.json").write_text(json.dumps(found))


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def main() -> None:
    folder, groups = Path(sys.argv[1]), sys.argv[2:] or list(GROUPS)
    # Everything is imported before the forks. One thread makes no pool of threads, which a fork would break.
    torch.set_num_threads(1)
    ends = {}
    for group in groups:
        port, children = free_port(), []
        for rank in range(GROUPS[group][0]):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    process(group, rank, port, folder)
                    code = 0
                finally:
                    if code:
                        traceback.print_exc()
                    sys.stdout.flush()
                    os._exit(code)
            children.append(child)
        ends[group] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
