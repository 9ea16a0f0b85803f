from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import counterpoint as cp
from counterpoint.trainer import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenet"])
def test_configs_are_right(name: str) -> None:
    config = load_config(EXAMPLES / f"{name}.yaml")
    assert config.run_dir == f"runs/{name}"
    cp.compose(
        config.algorithms,
        loss=config.loss.build(),
        task=config.task,
        num_classes=10,
        inputs="normalized",
        steps_per_epoch=100,
        max_duration=config.max_duration,
    )


def test_digits_train_with_every_method_together(tmp_path: Path) -> None:
    overrides = [f"run_dir={tmp_path / 'run'}", "max_duration=3ep"]
    trainer = cp.Trainer(load_config(EXAMPLES / "digits.yaml", overrides))
    assert set(trainer.plan.order) == {"dense_targets", "mixup", "cutout", "label_smoothing", "ema"}
    assert trainer.fit().metrics["evaluation_accuracy"] > 0.9


def test_the_plain_loop_is_short_and_learns() -> None:
    path = EXAMPLES / "plain_loop.py"
    assert len(path.read_text().splitlines()) < 40
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout.rsplit(" ", 1)[1]) > 0.95
