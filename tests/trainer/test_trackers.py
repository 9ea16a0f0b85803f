from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import counterpoint as cp
from counterpoint import ConfigError
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.yaml import dump_config
from counterpoint.trainer.loop.loop import Loop
from counterpoint.trainer.loop.trackers import tracking as track
from tests.trainer.support import config, lines


def _config(folder: Path | None, **keys: Any) -> dict[str, Any]:
    return config(folder, algorithms=["mixup", "ema"], eval_every="4ba", checkpoint_every="5ba", **keys)


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: (step, value) of each curve."""
    shown = EventAccumulator(str(folder / "trackers" / "counterpoint")).Reload()
    return {tag: [(point.step, point.value) for point in shown.Scalars(tag)] for tag in shown.Tags()["scalars"]}


def _texts(folder: Path) -> dict[str, str]:
    shown = EventAccumulator(str(folder / "trackers" / "counterpoint")).Reload()
    return {
        tag.partition("/")[0]: shown.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in shown.Tags()["tensors"]
    }


@pytest.mark.slow
def test_tensorboard_shows_the_metrics_the_plan_and_the_config(tmp_path: Path) -> None:
    trainer = cp.Trainer(_config(tmp_path / "run", trackers=["tensorboard"]))
    trainer.fit()
    wanted: dict[str, list[tuple[int, float]]] = {}
    for line in lines(tmp_path / "run"):
        for name in line.keys() - {"step"}:
            wanted.setdefault(name, []).append((line["step"], pytest.approx(line[name], rel=1e-6)))
    assert _scalars(tmp_path / "run") == wanted
    texts = _texts(tmp_path / "run")
    assert trainer.plan.explain() in texts["plan"]
    assert dump_config(trainer.config) in texts["config"]


@pytest.mark.slow
def test_nothing_is_shown_twice_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation after step 8 is told of before the run ends after step 9, and again when it goes on from 5."""

    def interrupted(loop: Loop, *batch: Any) -> None:
        train(loop, *batch)
        if loop.step == 9:
            raise ZeroDivisionError

    train = Loop._train
    keys = _config(tmp_path / "run", trackers=["tensorboard"], max_duration="12ba")
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_train", interrupted)
        with pytest.raises(ZeroDivisionError):
            cp.Trainer(keys).fit()
    assert [step for step, _ in _scalars(tmp_path / "run")["evaluation_loss"]] == [4, 8]
    cp.Trainer(keys).fit(resume=True)
    assert [step for step, _ in _scalars(tmp_path / "run")["evaluation_loss"]] == [4, 8, 12]
    assert len(list((tmp_path / "run" / "trackers").rglob("hparams.yml"))) == 1
    cp.Trainer(keys).fit(overwrite=True)
    assert [step for step, _ in _scalars(tmp_path / "run")["evaluation_loss"]] == [4, 8, 12]
    assert len(list((tmp_path / "run" / "trackers" / "counterpoint").glob("events*"))) == 1


def test_without_trackers_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.TensorBoardTracker, "start", lambda self: pytest.fail("it was started"))
    cp.Trainer(_config(tmp_path / "run", max_duration="2ba")).fit()
    assert not (tmp_path / "run" / "trackers").exists()


def test_any_tracker_of_accelerate_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any]] = []

    class Recorder(tracking.GeneralTracker):
        name = "wandb"
        requires_logging_directory = False

        def __init__(self, run_name: str) -> None:
            super().__init__()
            told.append(("made", run_name))

        @property
        def tracker(self) -> None:
            return None

        def start(self) -> None:
            told.append(("start", None))

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            told.append(("config", values))

        def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
            told.append((f"step {step}", sorted(values)))

        def finish(self) -> None:
            told.append(("finish", None))

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr("counterpoint.trainer.loop.trackers.get_available_trackers", lambda: [LoggerType.WANDB])
    trainer = cp.Trainer(_config(tmp_path / "run", trackers=["wandb"], max_duration="1ba"))
    trainer.fit()
    assert [name for name, _ in told] == ["made", "start", "config", "step 0", "step 1", "finish"]
    settings = dict(told)["config"]
    assert settings["optimizer.lr"] == 0.2
    assert settings["algorithms.0.name"] == "mixup"
    assert settings["plan"] == trainer.plan.fingerprint
    assert json.dumps(settings)
    told.clear()
    with pytest.raises(ZeroDivisionError), track(trainer.config, trainer.plan, tmp_path, step=7):
        raise ZeroDivisionError
    assert [name for name, _ in told] == ["made", "start", "finish"]


def test_trackers_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trackers: not installed: wandb, mlflow; run `pip install wandb mlflow`"):
        cp.Trainer(_config(tmp_path / "run", trackers=["wandb", "mlflow"]))
    with pytest.raises(ConfigError, match=r"trackers: .*write the folder, such as `run_dir: runs/1`"):
        cp.Trainer(_config(None, trackers=["tensorboard"]))
    with pytest.raises(ConfigError, match=r"trackers\.0 = \"tensorbord\".*'tensorboard'"):
        RunConfig.parse(_config(None, trackers=["tensorbord"]))
    assert not (tmp_path / "run").exists()


def test_every_name_is_known_to_accelerate() -> None:
    allowed = RunConfig.model_json_schema()["properties"]["trackers"]["items"]["enum"]
    assert set(allowed) == set(tracking.LOGGER_TYPE_TO_CLASS) == {str(name) for name in LoggerType.list()} - {"all"}
