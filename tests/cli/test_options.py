"""Each option reaches what it stands for, at its least value too; what a command prints is worked out without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import counterpoint as cp
from counterpoint.cli import run as commands
from counterpoint.trainer.config.yaml import read_config
from tests.cli.conftest import HEAD, Run
from tests.trainer.support import write_images

pytestmark = pytest.mark.kind("30")
MIXUP = "algorithms: [mixup]\n"


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 1])
def test_the_draws_of_the_step_asked_for_are_printed(step: int, folder: Path, run: Run) -> None:
    """The first step is 0, whose draws are those of the plan in a batch of the size trained on."""
    (folder / "run.yaml").write_text(HEAD + MIXUP)
    shown = run("check", "run.yaml", "data.batch_size=5", "--draw", str(step))
    trainer = cp.Trainer(read_config(folder / "run.yaml", ["data.batch_size=5"]))
    drawn = trainer.plan.draws(step, cp.BatchSpec(5, trainer.data.spec.input_shape, 10))["mixup"]
    (line,) = [line for line in shown.out.splitlines() if line.startswith("step ")]
    assert line.startswith(f"step {step}, mixup: ")
    perm = torch.as_tensor(drawn.perm).tolist()
    assert len(perm) == 5
    assert f"'perm': {perm}" in line
    told = json.loads(run("check", "run.yaml", "data.batch_size=5", "--draw", str(step), "--format", "json").out)
    assert told["draws"]["mixup"]["perm"] == perm


def test_nothing_is_drawn_unless_asked_and_no_step_is_below_0(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD + MIXUP)
    assert "step 0" not in run("check", "run.yaml").out
    assert "draws" not in json.loads(run("check", "run.yaml", "--format", "json").out)
    assert run("check", "run.yaml", "--draw", "-1").code == 2


def bad_images(folder: Path) -> None:
    """A config of a folder with an image for evaluation that cannot be read."""
    write_images(folder / "images", count=4)
    (folder / "images" / "val" / "class1" / "3.png").write_text("no image")
    data = "{name: image_folder, root: images, size: 8, batch_size: 2}"
    (folder / "run.yaml").write_text(HEAD.replace("{name: digits, batch_size: 128}", data))


@pytest.mark.parametrize("form", ["text", "json"])
def test_data_are_read_only_where_that_is_asked(form: str, folder: Path, run: Run) -> None:
    bad_images(folder)
    assert run("check", "run.yaml", "--format", form).code == 0
    result = run("check", "run.yaml", "--data", "--format", form)
    assert result.code == 2
    assert result.err.startswith("error: run.yaml")
    assert "val/class1/3.png: not an image" in result.err


def test_train_names_the_file_of_bad_data_before_anything_is_written(folder: Path, run: Run) -> None:
    bad_images(folder)
    result = run("train", "run.yaml")
    assert (result.code, (folder / "run").exists()) == (2, False)
    assert result.err.startswith("error: run.yaml")
    assert "val/class1/3.png: not an image" in result.err


def test_train_without_a_folder_is_refused(folder: Path, run: Run) -> None:
    (folder / "run.yaml").write_text(HEAD.replace("run_dir: run\n", ""))
    result = run("train", "run.yaml")
    assert (result.code, result.out) == (2, "")
    assert "run.yaml: run_dir: is missing" in result.err


FLAGS = [(), ("--resume",), ("--overwrite",), ("--resume", "--allow-changes")]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_each_flag_of_train_is_its_own(flags: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(commands, "train_config", lambda *given, **named: seen.append((given, named)))
    assert run("train", "run.yaml", "seed=3", "task=x", *flags).code == 0
    names = ("resume", "overwrite", "allow_changes")
    wanted = {name: f"--{name.replace('_', '-')}" in flags for name in names}
    assert seen == [(("run.yaml", ["seed=3", "task=x"]), wanted)]


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_each_flag_of_train_reaches_the_run(
    flags: tuple[str, ...], folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("counterpoint.trainer.trainer.Trainer.fit", lambda self, **named: seen.append(named))
    (folder / "run.yaml").write_text(HEAD)
    assert run("train", "run.yaml", *flags).code == 0
    names = ("resume", "overwrite", "allow_changes")
    assert seen == [{name: f"--{name.replace('_', '-')}" in flags for name in names}]


@pytest.mark.parametrize("flags", [("--allow-changes",), ("--resume", "--overwrite")], ids=" ".join)
def test_flags_that_do_not_go_together(flags: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "train_config", lambda *given, **named: pytest.fail("trained"))
    result = run("train", "run.yaml", *flags)
    assert result.code == 2
    assert all(flag in result.err for flag in ("--resume", flags[-1]))
