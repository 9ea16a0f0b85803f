"""Whatever happens to the files of a run, a start answers with the right result, or names the file and the way out."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import counterpoint as cp
from counterpoint import CheckpointError, RunDirectoryError
from counterpoint.trainer.runs.exported_weights import read_model, write_model
from counterpoint.trainer.runs.history import Mark
from counterpoint.trainer.runs.integrity import (
    DamagedError,
    OtherFormatError,
    file_digest,
    seal,
    tensors_digest,
    text_digest,
    unseal,
    unseal_text,
)
from tests.trainer.support import assert_equal, blobs, config, weights

pytestmark = pytest.mark.kind("24")

STEPS, CHECKPOINTS = 7, ("step-00000004", "step-00000006", "step-00000007")
TEXTS = ("config.resolved.yaml", "plan.json")
PARTS = ("checksums.json", "state.json", "tensors.safetensors")
WAYS = ("--overwrite", "--resume", "move it away")


def _model() -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 3))


def _trainer(folder: Path, **keys: Any) -> cp.Trainer:
    base = {"data": None, "model": None, "algorithms": ["mixup", "ema"], "checkpoint_every": "2ba", "eval_every": "2ba"}
    return cp.Trainer(
        config(folder, **{**base, "max_duration": f"{STEPS}ba", **keys}),
        model=_model(),
        train_data=blobs(512),
        eval_data=blobs(16),
    )


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``finished`` of a run, and ``stopped``, where it was killed after its last checkpoint but one."""
    from counterpoint.trainer.loop.loop import Loop

    root = tmp_path_factory.mktemp("runs")
    _trainer(root / "finished").fit()
    after_step = Loop._after_step

    def interrupted(loop: Loop) -> None:
        if loop.step == STEPS:
            raise ZeroDivisionError
        after_step(loop)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Loop, "_after_step", interrupted)
        with pytest.raises(ZeroDivisionError):
            _trainer(root / "stopped").fit()
    return root


@dataclass(frozen=True)
class Case:
    """A run, one of its files, and what happens to it."""

    run: str
    file: str
    damage: str
    place: float
    bit: int

    def apply(self, folder: Path) -> None:
        """Damage the file."""
        path = folder / self.file
        if self.damage == "folder":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            path.mkdir()
            (path / "x").write_text("x")
        elif self.damage == "file" or path.is_dir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self.damage != "deleted":
                path.write_bytes(b"x")
        elif self.damage == "deleted":
            path.unlink()
        elif self.damage.startswith("other: "):
            path.write_text(self.damage.removeprefix("other: "))
        else:
            data = bytearray(path.read_bytes())
            at = min(int(self.place * len(data)), len(data) - 1)
            data[at] ^= 1 << self.bit
            path.write_bytes({"cut": data[:at], "flipped": data, "longer": bytes(data) + b"{}"}[self.damage])


OTHERS = [
    "",
    "{}",
    "[]",
    "null",
    "7",
    '"x"',
    '{"a": 1}',
    '[{"step": 1}]',
    "[" * 5000,
    '{"format": 9}',
    "\x00" * 9,
    "a: b",
]
FILES = [
    *((run, name) for run in ("finished", "stopped") for name in (*TEXTS, "metrics.jsonl", "checkpoints")),
    ("finished", "model.safetensors"),
    *(
        (run, f"checkpoints/{step}/{part}")
        for run, step in zip(("stopped", "finished"), CHECKPOINTS[1:], strict=True)
        for part in PARTS
    ),
    *((run, f"checkpoints/{step}") for run, step in zip(("stopped", "finished"), CHECKPOINTS[1:], strict=True)),
    ("stopped", ".lock"),
]
DAMAGES = ["cut", "flipped", "longer", "deleted", "folder", "file", *(f"other: {text}" for text in OTHERS)]


def cases() -> st.SearchStrategy[Case]:
    places, bits = st.floats(0, 1, exclude_max=True), st.integers(0, 7)
    return st.builds(
        lambda named, damage, place, bit: Case(*named, damage, place, bit),
        st.sampled_from(FILES),
        st.sampled_from(DAMAGES),
        places,
        bits,
    )


def _start(folder: Path, **keys: Any) -> cp.trainer.Summary | Exception:
    try:
        return _trainer(folder).fit(resume=True, **keys)
    except (CheckpointError, RunDirectoryError) as error:
        return error


def _assert_right(folder: Path, whole: Path, summary: Any, *, metrics: bool = True) -> None:
    assert summary.steps == STEPS
    assert_equal(weights(folder), weights(whole))
    for name in ("plan.json", *(["metrics.jsonl", "model.safetensors"] if metrics else [])):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    texts = [unseal_text((path / "config.resolved.yaml").read_bytes()) for path in (folder, whole)]
    assert texts[0].replace(str(folder), str(whole)) == texts[1]
    last = json.loads((whole / "metrics.jsonl").read_text().splitlines()[-1])
    if metrics:
        assert {name: last[name] for name in summary.metrics} == summary.metrics
    assert not list(folder.rglob(".*.partial"))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(case=cases())
def test_a_damaged_run_is_right_or_says_what_is_wrong(
    runs: Path, tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    _check(runs, tmp_path_factory.mktemp("damaged") / "run", case)


def _check(runs: Path, folder: Path, case: Case) -> None:
    shutil.copytree(runs / case.run, folder)
    if case.file == ".lock":
        (folder / ".lock").write_text("process 1 on x")
    case.apply(folder)
    before = _content(folder)
    found = _start(folder)
    if not isinstance(found, Exception):
        _assert_right(folder, runs / "finished", found)
        again = _start(folder)
        assert not isinstance(again, Exception)
        _assert_right(folder, runs / "finished", again)
        return
    text = str(found)
    assert any(part in text for part in Path(case.file).parts[-1:]), text
    assert any(way in text for way in WAYS), text
    assert _content(folder) == before  # a start that is refused writes nothing
    if case.file == "metrics.jsonl" and not (folder / case.file).is_dir():
        found = _start(folder, allow_changes=True)
        assert not isinstance(found, Exception)
        _assert_right(folder, runs / "finished", found, metrics=False)
    if case.file == ".lock":
        shutil.rmtree(folder / ".lock")
    _trainer(folder).fit(overwrite=True)
    _assert_right(folder, runs / "finished", _start(folder))


def _copy(runs: Path, name: str, folder: Path) -> Path:
    shutil.copytree(runs / name, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "emptied", "of another run", "without a record"])
def test_damaged_weights_of_a_finished_run_are_written_again(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = _copy(runs, "finished", tmp_path / "run")
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "of another run":
        tensors, record = read_model(path)
        write_model(path, tensors, {**record, "plan": "0" * 16})
    else:
        save_file(read_model(path)[0], path)
    damaged = path.read_bytes()
    summary = _start(folder)
    shown = capsys.readouterr().out
    assert f"{path} is damaged (" in shown.replace("\n", "")
    assert "it is written again from the checkpoint" in shown
    _assert_right(folder, runs / "finished", summary)
    assert (folder / "broken-model.safetensors").read_bytes() == damaged
    _trainer(folder).fit(overwrite=True)
    assert not (folder / "broken-model.safetensors").exists()


@pytest.mark.slow
def test_the_steps_of_a_finished_run_are_those_of_its_weights(runs: Path, tmp_path: Path) -> None:
    """Also where its last checkpoint is broken, and an older one tells what the run was."""
    folder = _copy(runs, "finished", tmp_path / "run")
    (folder / "checkpoints" / CHECKPOINTS[2] / "state.json").write_text("{}")
    summary = _start(folder)
    assert isinstance(summary, cp.trainer.Summary)
    assert summary.steps == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("run", ["finished", "stopped"])
def test_whole_lines_of_damaged_metrics_are_kept_where_changes_are_allowed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str
) -> None:
    folder = _copy(runs, run, tmp_path / "run")
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:-5]]))
    damaged = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged .*from a copy.*--overwrite.*--allow-changes"):
        _trainer(folder).fit(resume=True)
    assert path.read_bytes() == damaged
    summary = _trainer(folder).fit(resume=True, allow_changes=True)
    assert "whole lines are kept, and broken-metrics.jsonl has all of it" in capsys.readouterr().out.replace("\n", " ")
    assert (folder / "broken-metrics.jsonl").read_bytes() == damaged
    assert summary.steps == STEPS
    assert_equal(weights(folder), weights(runs / "finished"))
    rest = (
        [] if run == "finished" else [(runs / "finished" / "metrics.jsonl").read_bytes().splitlines(keepends=True)[-1]]
    )
    assert path.read_bytes() == b"".join([*lines[:2], *rest])
    assert _trainer(folder).fit(resume=True).steps == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkpoints", "state.json", "metrics.jsonl", "plan.json", "model.safetensors", ""])
def test_what_may_not_be_read_is_no_damage(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The tests may run as root, whom no mode of a file keeps out: the system's answer is put in its place."""
    folder = _copy(runs, "finished", tmp_path / "run")
    before = _content(folder)

    def refusing(name: str) -> Callable[..., Any]:
        found = getattr(Path, name)

        def refuse(path: Path, *arguments: Any, **keys: Any) -> Any:
            if path.name == (place or "run"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return found(path, *arguments, **keys)

        return refuse

    trainer = _trainer(folder)
    with monkeypatch.context() as patched:
        for name in ("exists", "open", "iterdir") if not place else ("open", "iterdir"):
            patched.setattr(Path, name, refusing(name))
        with pytest.raises(
            (CheckpointError, RunDirectoryError), match="cannot be read: Permission denied; make it read"
        ):
            trainer.fit(resume=True)
    assert _content(folder) == before


def test_another_format_is_named_and_not_passed_over(runs: Path, tmp_path: Path) -> None:
    """A version that writes format 2 has written the newest checkpoint; an older one is no way to go on from it."""
    folder = _copy(runs, "stopped", tmp_path / "run")
    path = folder / "checkpoints" / CHECKPOINTS[1] / "checksums.json"
    held = {"format": 2, "files": json.loads(path.read_text())["files"]}
    path.write_text(
        json.dumps({**held, "checksum": text_digest(json.dumps(held, sort_keys=True, separators=(",", ":")))})
    )
    with pytest.raises(
        CheckpointError, match=r"step-00000006: .*of format 2, and this version .* reads format 1; go on"
    ):
        _trainer(folder).fit(resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["step", "processes", "batch_size", "metrics_sha256", "optimizer", "measured", "format"]
)
@pytest.mark.parametrize("value", [None, "x", 1.5])
def test_a_state_of_other_keys_is_passed_over(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    """The checksums are right: another version, or a hand, has written it so."""
    folder = _copy(runs, "stopped", tmp_path / "run")
    path = folder / "checkpoints" / CHECKPOINTS[1]
    state = json.loads((path / "state.json").read_text())
    changed = {name: held for name, held in state.items() if name != key} if value is None else {**state, key: value}
    (path / "state.json").write_text(json.dumps(changed))
    files = {name: file_digest(path / name) for name in ("tensors.safetensors", "state.json")}
    (path / "checksums.json").write_text(json.dumps(seal({"files": files})))
    summary = _start(folder)
    if (key, value) != ("metrics_sha256", "x"):
        shown = capsys.readouterr().out.replace("\n", " ")
        assert "step-00000006 is broken (state.json" in shown
        assert "resumed after step 4" in shown
        _assert_right(folder, runs / "finished", summary)
    else:
        assert "metrics.jsonl is damaged" in str(summary)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["code.components", "code.components.model.name", "code.packages.counterpoint.files", "data.train.counts"]
)
def test_code_and_data_of_other_keys_are_passed_over(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    folder = _copy(runs, "stopped", tmp_path / "run")
    checkpoint = folder / "checkpoints" / CHECKPOINTS[1]
    state = json.loads((checkpoint / "state.json").read_text())
    *above, last = path.split(".")
    held = state
    for key in above:
        held = held[key]
    del held[last]
    (checkpoint / "state.json").write_text(json.dumps(state))
    files = {name: file_digest(checkpoint / name) for name in ("tensors.safetensors", "state.json")}
    (checkpoint / "checksums.json").write_text(json.dumps(seal({"files": files})))
    summary = _start(folder)
    shown = capsys.readouterr().out.replace("\n", " ")
    assert f"step-00000006 is broken (state.json: missing or wrong: {path})" in shown
    _assert_right(folder, runs / "finished", summary)


@pytest.mark.parametrize("text", ["", "7", "[]", "{}", "null", "[" * 9999, '{"checksum": "0"}', "\ufeff{}"])
def test_what_was_not_sealed_is_damaged(text: str) -> None:
    with pytest.raises(DamagedError):
        unseal(text)
    with pytest.raises(DamagedError):
        unseal_text(text.encode())


@pytest.mark.slow
@given(
    data=st.dictionaries(st.text(max_size=3), st.recursive(st.integers() | st.text(max_size=3), st.lists)),
    at=st.floats(0, 1),
)
def test_a_seal_holds_every_character(data: dict[str, Any], at: float) -> None:
    data = {key: value for key, value in data.items() if key not in ("checksum", "format")}
    text = json.dumps(seal(data))
    assert unseal(text) == data
    place = int(at * (len(text) - 1))
    for other in ("7", "x", ""):
        changed = text[:place] + other + text[place + 1 :]
        if changed != text and other:
            with pytest.raises(DamagedError):
                unseal(changed)


def test_each_format_is_read_by_its_own_version() -> None:
    held = {"format": 3, "a": 1}
    digest = text_digest(json.dumps(held, sort_keys=True, separators=(",", ":")))
    with pytest.raises(OtherFormatError, match="of format 3, and this version of Counterpoint reads format 1"):
        unseal(json.dumps({**held, "checksum": digest}))
    with pytest.raises(OtherFormatError, match="of format 3"):
        unseal_text(f"# Counterpoint, format 3, sha256 of what follows: {text_digest('a: 1')}\na: 1".encode())


def test_the_exported_weights_tell_of_their_run(runs: Path) -> None:
    """Names, dtypes, shapes and values of the tensors are under the checksum, and so is the record."""
    tensors, record = read_model(runs / "finished" / "model.safetensors")
    assert_equal(tensors, weights(runs / "finished"))
    metrics = (runs / "finished" / "metrics.jsonl").read_bytes()
    assert (record["step"], record["total"]) == (STEPS, STEPS)
    assert Mark(**record["metrics"]) == Mark(len(metrics), hashlib.sha256(metrics).hexdigest())
    one = torch.tensor([1.0, 2.0])
    digests = [tensors_digest({"a": one}), tensors_digest({"b": one}), tensors_digest({"a": one[:1]})]
    digests += [tensors_digest({"a": one[:, None]}), tensors_digest({"a": one.view(torch.int32)})]
    digests += [tensors_digest({"a": -one}), tensors_digest({"a": one, "b": one}), tensors_digest({})]
    assert len(set(digests)) == len(digests)
    assert tensors_digest({"b": one, "a": one}) == tensors_digest({"a": one, "b": one})
    assert tensors_digest({"a": torch.tensor(2.0)}) != tensors_digest({"a": torch.tensor([2.0])})
