from __future__ import annotations

from pathlib import Path

import pytest

from counterpoint import ConfigError
from counterpoint.algorithms import CutOut, MixUp
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.yaml import dump_config, load_config, read_config
from counterpoint.trainer.optim import SGD, AdamW

HEAD = "task: multiclass\ndata: digits\nmodel: mlp\nmax_duration: 2ep\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_are_read_as_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "a: 1e-3\nb: 5.0e-4\nc: 1_000\nd: .inf\ne: '1e-3'\nf: 10ep\ng: 0.9dur\n")
    assert read_config(path) == {
        "a": 1e-3,
        "b": 5e-4,
        "c": 1000,
        "d": float("inf"),
        "e": "1e-3",
        "f": "10ep",
        "g": "0.9dur",
    }


def test_anchors_and_a_byte_order_mark_are_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffa: &x {name: cutout}\nb: *x\nc: {<<: *x, length: 0.3}\n")
    named = {"name": "cutout"}
    assert read_config(path) == {"a": named, "b": named, "c": {**named, "length": 0.3}}


def test_an_override_of_an_aliased_mapping_changes_one_place(tmp_path: Path) -> None:
    path = written(tmp_path, "a: &x {lr: 1}\nb: *x\n")
    assert read_config(path, ["a.lr=2"]) == {"a": {"lr": 2}, "b": {"lr": 1}}


def test_overrides(tmp_path: Path) -> None:
    path = written(
        tmp_path, HEAD + "optimizer: {name: sgd, lr: 0.1}\nalgorithms: [cutout, {name: mixup, alpha: 1.0}]\n"
    )
    config = load_config(
        path,
        [
            "optimizer.lr=5e-2",
            "optimizer.momentum=0.5",
            "algorithms.0.length=0.25",
            "algorithms.0.fill=0.5",
            "algorithms.1.end=0.9dur",
            "data.batch_size=64",
            "run_dir=runs/a=b",
            "seed=1",
            "seed=2",
        ],
    )
    assert config.optimizer == SGD(lr=0.05, momentum=0.5)
    assert config.algorithms == (CutOut(length=0.25, fill=0.5), MixUp(alpha=1.0, end="0.9dur"))
    assert (config.data.batch_size, config.run_dir, config.seed) == (64, "runs/a=b", 2)


def test_an_override_can_replace_a_whole_part(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + "algorithms: [cutout]\noptimizer: {name: sgd, momentum: 0.5}\n")
    config = load_config(path, ["algorithms=[{name: mixup, alpha: 1}, ema]", "algorithms.1=mixup", "optimizer=adamw"])
    assert config.algorithms == (MixUp(alpha=1.0), MixUp())
    assert config.optimizer == AdamW()


def test_an_override_of_a_part_that_the_file_leaves_out_sets_the_default_one(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, HEAD), ["optimizer.lr=0.5", "loss.label_smoothing=0.1"])
    assert config.optimizer == SGD(lr=0.5)
    assert config.resolved()["loss"]["name"] == "cross_entropy"


def test_an_override_is_named_where_it_is_at_fault_and_only_there(tmp_path: Path) -> None:
    path = written(tmp_path, HEAD + "workers: -1\noptimizer: {name: sgd, lr: 0.1, momentum: 2}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["optimizer.lr=-1", "seed=3"])
    messages = [fault.message for fault in caught.value.faults]
    assert messages == [
        "optimizer.lr = -1 (from the override 'optimizer.lr=-1'): is not allowed",
        "optimizer.momentum = 2: is not allowed",
        "workers = -1: is not allowed",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "run_dir", ["runs/a b", "null", "1e5", "yes", "0x10", "2020-01-01", "~", "a: b", "é/ü", "a # b", " a", "'", "12:30"]
)
def test_what_is_dumped_is_loaded_as_the_same(run_dir: str, tmp_path: Path) -> None:
    config = RunConfig(
        task="multiclass",
        data="digits",
        model={"name": "mlp", "hidden": 12},
        optimizer={"name": "adamw", "lr": 1e-7, "weight_decay": 1e22},
        max_duration="2ep",
        algorithms=["mixup", {"name": "ema", "after": ["mixup"]}],
        run_dir=run_dir,
    )
    assert load_config(written(tmp_path, dump_config(config))) == config
