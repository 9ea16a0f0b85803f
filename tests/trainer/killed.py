"""Starts runs in processes that kill themselves with SIGKILL at a stated moment; run as a program by test_resume.

It reads a JSON list of jobs from stdin, each ``{"config": …, "moment": …}``, forks for each of them, and prints how
they ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

import counterpoint as cp
from counterpoint.trainer import checkpoint
from counterpoint.trainer.loop import Loop


def die() -> None:
    """End this process as a loss of power would."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment: str, step: int) -> None:
    """Arrange the kill: when ``step`` device batches are trained, or while that step's checkpoint is written."""
    if moment == "step":
        trained = Loop._train

        def dying(self: Loop, *batch: torch.Tensor) -> None:
            trained(self, *batch)
            if self.step == step:
                die()

        Loop._train = dying
        return
    written = checkpoint.write_file

    def half_written(path: Path, text: str) -> None:
        if f"step-{step:08d}" in str(path):
            path.write_text(text[: len(text) // 2])
            die()
        written(path, text)

    checkpoint.write_file = half_written


def main() -> None:
    threads, jobs = int(sys.argv[1]), json.load(sys.stdin)
    # Everything is imported before the forks. One thread makes no pool of threads, which a fork would break.
    torch.set_num_threads(1)
    for job in jobs:
        cp.Trainer(job["config"])
    ends = []
    for job in jobs:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(threads)
            arm(job["moment"], job["step"])
            cp.Trainer(job["config"]).fit()
            os._exit(0)
        ends.append(child)
    print(json.dumps([-os.WTERMSIG(os.waitpid(child, 0)[1]) for child in ends]))


if __name__ == "__main__":
    main()
