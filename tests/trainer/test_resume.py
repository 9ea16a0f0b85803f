"""A run that is killed at any moment and resumed ends where the uninterrupted one does, bit for bit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import counterpoint as cp
from counterpoint import CheckpointError
from counterpoint.trainer.runs.checkpoint import list_checkpoints
from tests.trainer.killed import Job, Killer
from tests.trainer.support import METHODS, assert_same_end, assert_same_steps, config, write_images

KILLS: dict[str, tuple[str, int, int]] = {
    "in mid-epoch": ("step", 17, 0),
    "at the end of an epoch": ("measure", 11, 2),
    "before the first checkpoint": ("step", 4, 0),
    "while writing the first checkpoint": ("write", 1, 0),
    "while writing a checkpoint": ("write text", 5, 0),
    "while deleting an old checkpoint": ("delete", 1, 2),
    "while the average is put in": ("swap", 3, 0),
    "while the average is evaluated": ("evaluate", 8, 2),
    "after the last mixing": ("train", 21, 0),
}
"""A place, the number of the call there that is the last, and the workers."""


def _digits(folder: Path, **keys: Any) -> dict[str, Any]:
    """Two epochs of 11 steps with everything that has a state, batch norm, momentum, a schedule, EMA; MixUp ends."""
    return config(
        folder,
        **{
            "model": {"name": "small_cnn", "width": 4},
            "algorithms": [{**METHODS[0], "end": "16ba"}, *METHODS[1:]],
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
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    server = Killer(tmp_path_factory.mktemp("killer"), torch.get_num_threads())
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole(killer: Killer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not killed, and its steps in ``whole.log``."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    killer.run(Job(_digits(folder), f"{folder}.log"))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_ends_like_a_whole_one(killer: Killer, whole: Path, tmp_path: Path, name: str) -> None:
    place, call, workers = KILLS[name]
    folder, log = tmp_path / "run", str(tmp_path / "run.log")
    end = killer.run(Job(_digits(folder, workers=workers), log, place=place, call=call))
    assert end.code == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    killer.run(Job(_digits(folder), log, resume=True))
    assert_same_end(folder, whole)
    assert_same_steps(Path(log), whole.with_suffix(".log"))


@pytest.mark.slow
def test_images_that_are_cropped_at_random(killer: Killer, tmp_path: Path) -> None:
    """Killed with two processes that load, resumed with one, it ends like one without."""
    write_images(tmp_path / "data", classes=3, count=8)
    images = partial(_images, root=tmp_path / "data")
    end = killer.run(Job(images(tmp_path / "run", workers=2), str(tmp_path / "log"), place="train", call=12))
    assert end.code == -signal.SIGKILL
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "step-00000008"
    cp.Trainer(images(tmp_path / "run", workers=1)).fit(resume=True)
    cp.Trainer(images(tmp_path / "whole")).fit()
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_how_often_it_is_resumed_does_not_matter(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after every few steps, by an exception as Ctrl-C raises it."""
    from counterpoint.trainer.loop.loop import Loop

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
    assert_same_end(folder, whole)


@pytest.mark.slow
def test_only_damaged_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    cp.Trainer(config(folder, max_duration="2ba")).fit()
    for path in list_checkpoints(folder / "checkpoints"):
        (path / "state.json").write_text("")
    with pytest.raises(CheckpointError, match=r"no whole checkpoint is left; start afresh with --overwrite"):
        cp.Trainer(config(folder, max_duration="2ba")).fit(resume=True)


@pytest.mark.slow
def test_layers_that_draw_are_resumed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout takes its numbers from torch's global generator, which the trainer keys by the step."""
    from counterpoint.trainer.loop.loop import Loop
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
