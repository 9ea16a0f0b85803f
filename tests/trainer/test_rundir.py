from __future__ import annotations

from pathlib import Path

import pytest
import torch

from counterpoint import RunDirectoryError
from counterpoint.trainer.runs.directory import RunDirectory


def _started(path: Path) -> RunDirectory:
    folder = RunDirectory(path)
    folder.open()
    folder.start("seed: 1\n", "{}\n", metrics_size=0)
    return folder


def _content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_checking_writes_nothing(tmp_path: Path) -> None:
    RunDirectory(tmp_path / "a" / "b").check()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["config.resolved.yaml", "plan.json", "metrics.jsonl", "checkpoints", "model.safetensors"]
)
def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    folder, before = RunDirectory(tmp_path), _content(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"holds a run already.*--resume.*--overwrite"):
        folder.check()
    folder.check(resume=True)
    folder.check(overwrite=True)
    assert _content(tmp_path) == before


def test_a_folder_with_other_things_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    RunDirectory(tmp_path).check()


def test_resume_and_overwrite_contradict(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="give one of them"):
        RunDirectory(tmp_path).check(resume=True, overwrite=True)


@pytest.mark.parametrize("path", ["file", "file/run", "file/run/deeper"])
def test_a_file_is_no_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"file' is a file"):
        RunDirectory(tmp_path / path).check()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(RunDirectoryError, match="is not writable"):
        RunDirectory(tmp_path / "run").check()


def test_a_system_that_refuses_is_a_run_directory_error() -> None:
    folder = RunDirectory("/proc/counterpoint/run")

    def start() -> None:
        folder.check()
        folder.open()

    with pytest.raises(
        RunDirectoryError, match=r"run_dir: '/proc/counterpoint/run' (cannot be written|is not writable)"
    ):
        start()


def test_overwriting_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    folder = _started(tmp_path)
    folder.add_metrics({"epoch": 1})
    folder.finish({"weight": torch.ones(2)})
    (folder.checkpoints / "step-00000001").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    folder.open(overwrite=True)
    assert _content(tmp_path) == {"notes.txt": b"mine"}
    assert not folder.holds_run


def test_metrics_are_cut_back(tmp_path: Path) -> None:
    folder = _started(tmp_path)
    folder.add_metrics({"epoch": 1, "loss": 0.1})
    size = folder.metrics_size
    folder.add_metrics({"epoch": 2, "loss": 0.2})
    with folder.metrics.open("a") as file:
        file.write('{"epoch": 3, "lo')  # a line that a kill has cut
    folder.start("seed: 1\n", "{}\n", metrics_size=size)
    assert folder.metrics.read_text() == '{"epoch": 1, "loss": 0.1}\n'
    assert folder.last_metrics() == {"epoch": 1, "loss": 0.1}


def test_metrics_are_json_whatever_happens(tmp_path: Path) -> None:
    folder = _started(tmp_path)
    assert folder.last_metrics() == {}
    folder.add_metrics({"epoch": 1, "loss": float("nan"), "other": float("-inf")})
    assert folder.metrics.read_text() == '{"epoch": 1, "loss": null, "other": null}\n'


def test_the_final_weights_mark_the_end(tmp_path: Path) -> None:
    folder = _started(tmp_path)
    assert not folder.finished
    folder.finish({"weight": torch.ones(2)})
    assert folder.finished
    assert not list(tmp_path.glob(".*"))
