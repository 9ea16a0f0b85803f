from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import counterpoint as cp
from counterpoint.cli.main import main
from counterpoint.trainer import load_config

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["digits", "cifar10", "imagenet", "rsb_bce"])
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


@pytest.mark.slow
def test_digits_train_with_every_method_together(tmp_path: Path) -> None:
    overrides = [f"run_dir={tmp_path / 'run'}", "max_duration=3ep"]
    trainer = cp.Trainer(load_config(EXAMPLES / "digits.yaml", overrides))
    assert set(trainer.plan.order) == {"dense_targets", "mixup", "cutout", "label_smoothing", "ema"}
    assert trainer.fit().metrics["evaluation_accuracy"] > 0.9


@pytest.mark.slow
@pytest.mark.kind("9")
def test_the_recipe_with_binary_cross_entropy_is_checked_and_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(EXAMPLES / "rsb_bce.yaml")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "one_of (50% mixup, 50% cutmix) edits normalized edits dense + multi_hot_targets (inserted)" in shown
    overrides = [f"run_dir={tmp_path / 'run'}", "max_duration=5ep"]
    trainer = cp.Trainer(load_config(EXAMPLES / "rsb_bce.yaml", overrides))
    assert trainer.plan.order == ("dense_targets", "one_of", "multi_hot_targets")
    metrics = trainer.fit().metrics
    assert metrics["evaluation_accuracy"] > 0.9
    assert 0 < metrics["train_expected_accuracy"] < metrics["evaluation_accuracy"]
    assert "train_accuracy" not in metrics


@pytest.mark.kind("9")
def test_evaluation_has_the_binary_loss_of_unmixed_classes() -> None:
    trainer = cp.Trainer(load_config(EXAMPLES / "rsb_bce.yaml", ["max_duration=2ba", "run_dir=null"]))
    metrics = trainer.fit().metrics
    inputs, targets = (torch.stack(list(part)) for part in zip(*trainer.data.evaluation, strict=True))
    with torch.no_grad():
        logits = trainer.model.eval()(inputs).double()
    labels = torch.nn.functional.one_hot(targets, 10).double()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item()
    assert metrics["evaluation_loss"] == pytest.approx(wanted, rel=1e-5)
    assert metrics["evaluation_accuracy"] == pytest.approx((logits.argmax(1) == targets).double().mean().item())


@pytest.mark.slow
def test_the_plain_loop_is_short_and_learns() -> None:
    path = EXAMPLES / "plain_loop.py"
    assert len(path.read_text().splitlines()) < 40
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout.rsplit(" ", 1)[1]) > 0.95
