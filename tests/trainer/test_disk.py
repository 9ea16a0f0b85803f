"""What a disk may do to a run: fill up, cut files short, flip bits, hold what somebody else has put there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

import counterpoint as cp
from counterpoint import CheckpointError, RunError
from counterpoint.cli import main
from counterpoint.trainer.config.yaml import dump_config
from counterpoint.trainer.runs import checkpoint as module
from counterpoint.trainer.runs.checkpoint import latest_checkpoint, list_checkpoints
from tests.trainer.support import METHODS, assert_same_end, config

ROOT = Path(__file__).parents[2]


def _config(folder: Path, **keys: Any) -> dict[str, Any]:
    base = {"model": {"name": "small_cnn", "width": 4}, "algorithms": METHODS, "checkpoint_every": "5ba"}
    return config(folder, **{**base, "max_duration": "12ba", **keys})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose disk did as it was told."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    cp.Trainer(_config(folder)).fit()
    return folder


def _unfinished(whole: Path, folder: Path) -> Path:
    """The whole run, as it stood before its final weights were written."""
    shutil.copytree(whole, folder)
    (folder / "model.safetensors").unlink()
    return folder


def _full_at(place: str) -> Callable[[Path, bytes], int]:
    """Return a ``Path.write_bytes`` for which the disk is full when ``place`` is in the path: half is written."""
    written = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if place not in str(path):
            return written(path, data)
        written(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    return write_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "message", "left"),
    [
        ("step-00000005", "the checkpoint .*step-00000005 cannot be written: .*No space left", []),
        ("step-00000010", "the checkpoint .*step-00000010 cannot be written: .*No space left", ["step-00000005"]),
        ("model.safe", "run_dir: .* cannot be written any more: No space left", ["step-00000010", "step-00000012"]),
    ],
)
def test_a_full_disk_ends_a_run_that_goes_on_when_there_is_room(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    message: str,
    left: list[str],
) -> None:
    folder = tmp_path / "run"
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(cp.trainer.RunConfig.parse(_config(folder))))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", _full_at(place))
        assert main(["train", str(file)]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "whole: fix this, and go on with --resume" in error
    assert "Traceback" not in error
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == left
    assert not list(folder.rglob(".*"))
    assert not (folder / "model.safetensors").exists()
    assert main(["train", str(file), "--resume"]) == 0
    assert_same_end(folder, whole)


@pytest.mark.slow
def test_a_disk_that_takes_no_more_metrics(whole: Path, tmp_path: Path) -> None:
    """``/dev/full`` is a device that is always full."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"cannot be written any more: No space left.*--resume"):
        cp.Trainer(_config(folder)).fit(resume=True)
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step-00000005", "step-00000010"]
    (folder / "metrics.jsonl").unlink()


@pytest.mark.slow
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The system itself cuts the write, as it does where a quota ends."""
    cp.Trainer(_config(tmp_path / "run", max_duration="5ba")).fit()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    found, _ = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert found is not None
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"step-00000006 cannot be written: .*File too large"):
            module.write_checkpoint(tmp_path / "run" / "checkpoints", 6, found)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000005"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    folder = _unfinished(whole, tmp_path / "run")
    path = list_checkpoints(folder / "checkpoints")[-1] / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-2] if damage == "cut" else data)
    cp.Trainer(_config(folder)).fit(resume=True)
    shown = capsys.readouterr().out
    assert "step-00000012 is broken" in shown
    assert "resumed after step 10" in shown
    assert_same_end(folder, whole)
    assert (folder / "checkpoints" / "broken-step-00000012").is_dir()  # it is out of the way of those to come


@pytest.mark.slow
def test_broken_checkpoints_push_out_no_whole_one(whole: Path, tmp_path: Path) -> None:
    """The newest two are kept, and those that are broken do not count."""
    folder = _unfinished(whole, tmp_path / "run")
    (folder / "checkpoints" / "step-00000012" / "state.json").write_text("{}")
    cp.Trainer(_config(folder, checkpoint_every="1ba", max_duration="11ba")).fit(resume=True, allow_changes=True)
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step-00000010", "step-00000011"]


class Mine:
    """What a pickle can do to whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.slow
@pytest.mark.parametrize("save", [pickle.dump, torch.save])
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_pickle_in_the_place_of_a_file_runs_nothing(
    whole: Path, tmp_path: Path, name: str, save: Callable[[Mine, BinaryIO], object]
) -> None:
    """Also where somebody has written the checksums anew."""
    folder = _unfinished(whole, tmp_path / "run")
    for path in list_checkpoints(folder / "checkpoints"):
        with (path / name).open("wb") as file:
            save(Mine(tmp_path / "ran"), file)
        files = ("tensors.safetensors", "state.json")
        (path / "checksums.json").write_text(json.dumps({part: module._digest(path / part) for part in files}))
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        cp.Trainer(_config(folder)).fit(resume=True)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Mine(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # the trap works


def test_nothing_in_the_package_reads_pickles() -> None:
    """Each ``torch.load`` says ``weights_only=True``, and nobody imports a module that unpickles."""
    found = {path: _unpickling(path.read_text(encoding="utf-8")) for path in (ROOT / "counterpoint").rglob("*.py")}
    assert len(found) > 100
    assert not {path: names for path, names in found.items() if names}


def _unpickling(source: str) -> list[str]:
    """Return what of a source reads pickles, or may."""
    names = re.findall(r"^\s*(?:import|from) (pickle|shelve|dill|cloudpickle|joblib)\b", source, re.MULTILINE)
    loads = re.findall(r"torch\.load\((.*?)\)", source, re.DOTALL)
    return [*names, *(call for call in loads if "weights_only=True" not in call), *re.findall(r"np\.load", source)]


@pytest.mark.kind("30")
def test_what_reads_pickles_is_found() -> None:
    assert _unpickling("import pickle\nx = torch.load(path)\n  from dill import y\nnp.load(z)") == [
        "pickle",
        "dill",
        "path",
        "np.load",
    ]
    assert _unpickling("torch.load(path, weights_only=True)\nunpickle = 1\nimport json") == []
