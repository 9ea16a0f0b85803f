"""A run that is killed fifty times, anywhere, leaves what the uninterrupted one does, bit for bit."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from counterpoint.trainer.runs.checkpoint import list_checkpoints
from tests.trainer.killed import PLACES, Job, Killer
from tests.trainer.support import METHODS, assert_same_end, assert_same_steps, config

SEED, KILLS, KILLS_OF_A_RUN = 17, 50, 3
MIXED = 15


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[Killer]:
    server = Killer(tmp_path)
    yield server
    server.close()


def _config(folder: Path, **keys: Any) -> dict[str, Any]:
    """Two epochs of 11 steps with batch norm, momentum, a schedule and EMA; the last steps are not mixed."""
    mixup, *others = METHODS
    return config(
        folder,
        model={"name": "small_cnn", "width": 4},
        algorithms=[{**mixup, "end": f"{MIXED}ba"}, *others],
        scheduler={"name": "cosine", "warmup": "3ba"},
        checkpoint_every="5ba",
        eval_every="6ba",
        **keys,
    )


def _last_step(log: Path) -> int:
    """The step that was trained last, -1 before any."""
    lines = log.read_text().splitlines() if log.exists() else []
    return int(lines[-1].partition(":")[0]) if lines else -1


@pytest.mark.long
def test_fifty_kills(killer: Killer, tmp_path: Path) -> None:
    """Half of the kills come at a random call of each place in turn, the others at random times."""
    whole, log = tmp_path / "whole", tmp_path / "whole.log"
    length = killer.run(Job(_config(tmp_path / "first"), str(tmp_path / "first.log"))).seconds
    done = killer.run(Job(_config(whole), str(log)))
    length = min(length, done.seconds)
    moments, places = random.Random(SEED), deque(PLACES)
    met: list[tuple[str, int, int]] = []
    for number in count():
        if len(met) >= KILLS and set(PLACES) <= {place for place, _, _ in met}:
            break
        workers = (0, 2)[number % 2]
        folder, steps = tmp_path / f"run {number}", tmp_path / f"run {number}.log"
        for _ in range(moments.randint(1, KILLS_OF_A_RUN)):
            keys: dict[str, Any] = {"seconds": moments.uniform(0, 1.2) * length * (1 + workers)}
            if moments.random() < 0.5:
                keys = {"place": places[0], "call": moments.randint(1, done.calls[places[0]])}
            end = killer.run(Job(_config(folder, workers=workers), str(steps), resume=True, **keys))
            if end.code == 0:
                break
            if "place" in keys:
                places.rotate(-1)
            met.append((keys.get("place", "clock"), _last_step(steps), len(list_checkpoints(folder / "checkpoints"))))
            print(f"seed {SEED}, kill {len(met)} of run {number}, {workers} workers: {keys}; step {met[-1][1]}")
        else:
            killer.run(Job(_config(folder, workers=2 - workers), str(steps), resume=True))
        assert_same_end(folder, whole)
        assert_same_steps(steps, log)
    assert any(kept == 0 for _, _, kept in met), "none came before the first checkpoint"
    assert any(step >= MIXED for _, step, _ in met), "none came when mixing was over"
