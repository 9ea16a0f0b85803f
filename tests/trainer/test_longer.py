"""A run that goes on otherwise than it began: longer, or with other settings of its optimizer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import counterpoint as cp
from counterpoint import CheckpointError
from counterpoint.trainer.runs.checkpoint import latest_checkpoint, list_checkpoints
from tests.trainer.support import assert_equal, config, lines, weights

STEPS = 11
"""Of an epoch."""


def _config(folder: Path, **keys: Any) -> dict[str, Any]:
    return config(folder, **{"model": {"name": "mlp", "hidden": 8}, "algorithms": ["ema"], "eval_every": "1ba", **keys})


def _rates(folder: Path) -> dict[int, float]:
    """The learning rate that each step had."""
    return {int(line["step"]): line["lr"] for line in lines(folder)}


def _cosine(step: int, total: int, lr: float = 0.2) -> float:
    """That of a step, counted from 1."""
    return lr * (1 + math.cos(math.pi * (step - 1) / total)) / 2


@pytest.mark.slow
def test_a_finished_run_is_made_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on after its last step, with the schedule of the longer run; its first weights get another name."""
    folder = tmp_path / "run"
    cp.Trainer(_config(folder)).fit()
    first = weights(folder)
    assert _rates(folder)[22] == pytest.approx(_cosine(22, 22))
    with pytest.raises(CheckpointError, match=r"max_duration: was '2ep', is '3ep'"):
        cp.Trainer(_config(folder, max_duration="3ep")).fit(resume=True)
    assert (folder / "model.safetensors").exists()
    capsys.readouterr()
    summary = cp.Trainer(_config(folder, max_duration="3ep")).fit(resume=True, allow_changes=True)
    shown = capsys.readouterr().out
    assert "goes on otherwise than it began:\n  max_duration: was '2ep', is '3ep'" in shown
    assert "resumed after step 22" in shown
    assert summary.steps == 3 * STEPS
    assert [_rates(folder)[step] for step in (22, 23, 33)] == pytest.approx(
        [_cosine(22, 22), _cosine(23, 33), _cosine(33, 33)]
    )
    former = folder / "model-step-00000022.safetensors"
    assert_equal(load_file(former), first)
    assert (weights(folder)["1.weight"] != first["1.weight"]).any()
    again = cp.Trainer(_config(folder, max_duration="3ep")).fit(resume=True)
    assert again.steps == 33
    assert "finished; nothing is left to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_longer_run_that_is_killed_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old final weights are no mark of its end."""
    from counterpoint.trainer.loop.loop import Loop

    def interrupted(loop: Loop) -> None:
        after_step(loop)
        if loop.step == 12:
            raise ZeroDivisionError

    after_step = Loop._after_step
    keys = {"max_duration": "1ep", "checkpoint_every": "1ba"}
    cp.Trainer(_config(tmp_path / "run", **keys)).fit()
    longer = _config(tmp_path / "run", **{**keys, "max_duration": "13ba"})
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_after_step", interrupted)
        with pytest.raises(ZeroDivisionError):
            cp.Trainer(longer).fit(resume=True, allow_changes=True)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert cp.Trainer(longer).fit(resume=True).steps == 13


@pytest.mark.slow
def test_a_shorter_run_is_finished(tmp_path: Path) -> None:
    cp.Trainer(_config(tmp_path / "run")).fit()
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    summary = cp.Trainer(_config(tmp_path / "run", max_duration="1ep")).fit(resume=True, allow_changes=True)
    assert summary.steps == 22
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_finished_run_without_checkpoints(tmp_path: Path) -> None:
    cp.Trainer(_config(tmp_path / "run", max_duration="1ba")).fit()
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    with pytest.raises(CheckpointError, match=r"finished run without checkpoints.*--overwrite"):
        cp.Trainer(_config(tmp_path / "run", max_duration="2ba")).fit(resume=True, allow_changes=True)
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_other_settings_of_the_optimizer_count_from_there_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from counterpoint.trainer.loop.loop import Loop

    def interrupted(loop: Loop) -> None:
        after_step(loop)
        if loop.step == STEPS:
            raise ZeroDivisionError

    after_step = Loop._after_step
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_after_step", interrupted)
        with pytest.raises(ZeroDivisionError):
            cp.Trainer(_config(folder)).fit()
    other = {"name": "sgd", "lr": 0.05, "weight_decay": 0.01}
    with pytest.raises(CheckpointError, match=r"adamw cannot go on from what sgd has kept"):
        cp.Trainer(_config(folder, optimizer="adamw")).fit(resume=True, allow_changes=True)
    cp.Trainer(_config(folder, optimizer=other)).fit(resume=True, allow_changes=True)
    assert [_rates(folder)[step] for step in (11, 12, 22)] == pytest.approx(
        [_cosine(11, 22), _cosine(12, 22, 0.05), _cosine(22, 22, 0.05)]
    )
    checkpoint, _ = latest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None
    (group,) = checkpoint.data["optimizer"]["param_groups"]
    assert (group["weight_decay"], group["momentum"]) == (0.01, 0.9)
