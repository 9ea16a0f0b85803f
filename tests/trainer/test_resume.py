"""A run that is killed at any moment and resumed ends where the uninterrupted one does, bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import counterpoint as cp
from counterpoint.core.errors import CheckpointError
from counterpoint.trainer.checkpoint import list_checkpoints
from tests.trainer.support import METHODS, assert_same_end, config, write_images

KILLS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "in mid-epoch": ("step", 17, {}),
    "at the end of an epoch": ("step", 11, {}),
    "before the first checkpoint": ("step", 3, {}),
    "while writing a checkpoint": ("checkpoint", 10, {}),
    "while writing the first checkpoint": ("checkpoint", 5, {}),
    "while writing the last checkpoint": ("checkpoint", 22, {}),
}


def _digits(folder: Path, **keys: Any) -> dict[str, Any]:
    """Two epochs of 11 steps with everything that has a state: batch norm, momentum, a schedule, EMA."""
    return config(
        folder,
        **{
            "model": {"name": "small_cnn", "width": 4},
            "algorithms": METHODS,
            "scheduler": {"name": "cosine", "warmup": "3ba"},
            "checkpoint_every": "5ba",
            "eval_every": "4ba",
            **keys,
        },
    )


def _images(folder: Path, root: Path, **keys: Any) -> dict[str, Any]:
    """Five epochs of 3 steps on randomly cropped images, with AdamW and microbatches."""
    return {
        "task": "multiclass",
        "data": {"name": "image_folder", "root": str(root), "size": 8, "batch_size": 8},
        "model": {"name": "small_cnn", "width": 4},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "algorithms": [{"name": "cutmix", "every": 2}, "label_smoothing", "ema"],
        "max_duration": "5ep",
        "checkpoint_every": "4ba",
        "accumulate": 2,
        "run_dir": str(folder),
        **keys,
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of killed runs by name, and of whole ones: ``whole`` and ``whole images``."""
    base = tmp_path_factory.mktemp("runs")
    write_images(base / "data", classes=3, count=8)
    jobs = [
        {"config": _digits(base / name, **keys), "moment": moment, "step": step}
        for name, (moment, step, keys) in KILLS.items()
    ]
    jobs.append({"config": _images(base / "images", base / "data", workers=2), "moment": "step", "step": 11})
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, script, str(torch.get_num_threads())],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [-signal.SIGKILL] * len(jobs), done.stderr
    cp.Trainer(_digits(base / "whole")).fit()
    cp.Trainer(_images(base / "whole images", base / "data")).fit()
    return base


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_ends_like_a_whole_one(killed: Path, name: str) -> None:
    assert not (killed / name / "model.safetensors").exists()
    cp.Trainer(_digits(killed / name)).fit(resume=True)
    assert_same_end(killed / name, killed / "whole")


def test_a_killed_run_with_workers_ends_like_a_whole_one_without(killed: Path) -> None:
    assert list_checkpoints(killed / "images" / "checkpoints")[-1].name == "step-00000008"
    cp.Trainer(_images(killed / "images", killed / "data", workers=1)).fit(resume=True)
    assert_same_end(killed / "images", killed / "whole images")


def test_how_often_it_is_resumed_does_not_matter(killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after every few steps, by an exception as Ctrl-C raises it."""
    from counterpoint.trainer.loop import Loop

    folder, stops = tmp_path / "run", [7, 7, 13, 18]
    after_step = Loop._after_step

    def interrupted(loop: Loop) -> None:
        after_step(loop)
        if stops and loop.step == stops[0]:
            del stops[0]
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_after_step", interrupted)
    while stops:
        with pytest.raises(KeyboardInterrupt):
            cp.Trainer(_digits(folder)).fit(resume=True)
    cp.Trainer(_digits(folder)).fit(resume=True)
    assert_same_end(folder, killed / "whole")


def test_only_damaged_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cp.Trainer(config(folder, max_duration="2ba")).fit()
    for path in list_checkpoints(folder / "checkpoints"):
        (path / "state.json").write_text("")
    with pytest.raises(CheckpointError, match=r"no whole checkpoint is left; start afresh with --overwrite"):
        cp.Trainer(config(folder, max_duration="2ba")).fit(resume=True)


def test_layers_that_draw_are_resumed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout takes its numbers from torch's global generator, which the trainer keys by the step."""
    from counterpoint.trainer.loop import Loop
    from tests.trainer.support import blobs

    def trainer(name: str) -> cp.Trainer:
        keys = config(tmp_path / name, data=None, model=None, max_duration="9ba", checkpoint_every="4ba")
        torch.manual_seed(5)
        model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 3))
        return cp.Trainer(keys, model=model, train_data=blobs(), eval_data=blobs())

    trainer("whole").fit()
    after_step = Loop._after_step

    def interrupted(loop: Loop) -> None:
        after_step(loop)
        if loop.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_after_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer("stopped").fit()
    trainer("stopped").fit(resume=True)
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")
