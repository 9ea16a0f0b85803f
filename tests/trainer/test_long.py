"""Ten thousand steps take no more memory, files or threads than two thousand."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from torch import nn

import counterpoint as cp
from counterpoint.trainer.loop.loop import Loop
from tests.trainer.support import blobs, config

STEPS, EPOCH, WARM = 10_000, 200, 2_000


class Use(NamedTuple):
    """What the process holds after some steps; its memory in MiB."""

    step: int
    memory: float
    files: int
    threads: int


def _use(step: int) -> Use:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Use(step, memory, len(os.listdir("/proc/self/fd")), threading.active_count())


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_run_grows_in_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Fifty epochs with an evaluation and a checkpoint each, for which loaders of data start and end."""
    used: list[Use] = []

    def watched(loop: Loop) -> None:
        if loop.step % EPOCH == EPOCH // 2:
            used.append(_use(loop.step))
        after_step(loop)

    after_step = Loop._after_step
    monkeypatch.setattr(Loop, "_after_step", watched)
    methods = ["cutout", "mixup", "label_smoothing", "gradient_clipping", "ema"]
    keys = config(
        tmp_path / "run",
        data={"name": "digits", "batch_size": 8},
        model=None,
        algorithms=methods,
        max_duration=f"{STEPS}ba",
        trackers=["tensorboard"],
        workers=workers,
    )
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    data = blobs(8 * EPOCH, shape=(1, 8, 8))
    spec = cp.trainer.DataSpec("multiclass", "normalized", (1, 8, 8), 3)
    cp.Trainer(keys, model=model, train_data=data, eval_data=blobs(shape=(1, 8, 8)), spec=spec).fit()

    assert len(used) == STEPS // EPOCH
    warm = [use for use in used if use.step > WARM]
    print(f"{workers} workers: {warm[0]}, {warm[-1]}, most memory {max(use.memory for use in warm):.1f} MiB")
    if workers == 0:
        assert {use.files for use in warm} == {warm[0].files}
    # A batch that one worker has ready before another's turn is held for a moment, and so are its files.
    assert min(use.files for use in warm[-10:]) == min(use.files for use in warm[:10])
    assert {use.threads for use in warm} == {warm[0].threads}
    assert max(use.memory for use in warm) - warm[0].memory < 8
