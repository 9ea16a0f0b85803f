from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from counterpoint import CheckpointError
from counterpoint.trainer.runs import checkpoint as module
from counterpoint.trainer.runs.checkpoint import (
    Checkpoint,
    join_optimizer,
    latest_checkpoint,
    list_checkpoints,
    prune_checkpoints,
    set_aside,
    split_optimizer,
    write_checkpoint,
    write_tensors,
)


def _checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        {"model.weight": torch.full((3, 2), float(step)), "engine.batches": torch.tensor(step)}, {"a": step}
    )


def _names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    tensors = {
        "double": torch.tensor([0.1, float("nan"), float("-inf")], dtype=torch.float64),
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "strided": torch.arange(6).view(2, 3).t(),
    }
    data = {"float": 0.1 + 0.2, "nothing": None, "list": [1, True, "x"], "infinite": float("inf")}
    write_checkpoint(tmp_path / "checkpoints", 7, Checkpoint(tensors, data))
    found, broken = latest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert not broken
    assert found.data == data
    assert found.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name].nan_to_num(), value.nan_to_num()), name


def test_parts_are_named_by_their_first_word() -> None:
    found = Checkpoint({"model.a.b": torch.tensor(1), "models.c": torch.tensor(2)}, {}).part("model")
    assert found == {"a.b": torch.tensor(1)}


def test_the_newest_is_found_and_old_ones_go(tmp_path: Path) -> None:
    for step in (9, 99, 100000000, 100):
        write_checkpoint(tmp_path, step, _checkpoint(step))
    assert _names(tmp_path) == ["step-00000009", "step-00000099", "step-00000100", "step-100000000"]
    found, _ = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.data == {"a": 100000000}
    prune_checkpoints(tmp_path, 2)
    assert _names(tmp_path) == ["step-00000100", "step-100000000"]


@pytest.mark.kind("30")
def test_checkpoints_are_ordered_by_number_and_other_names_are_left_alone(tmp_path: Path) -> None:
    for step in (99999999, 1, 100000000):
        write_checkpoint(tmp_path, step, _checkpoint(step))
    others = ["broken-step-00000007", "step-00000007.old", "step-x"]
    for name in others:
        (tmp_path / name).mkdir()
    assert _names(tmp_path) == ["step-00000001", "step-99999999", "step-100000000"]
    found, _ = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.data == {"a": 100000000}
    prune_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "step-99999999", "step-100000000"])
    prune_checkpoints(tmp_path, 1)
    assert _names(tmp_path) == ["step-100000000"]


@pytest.mark.kind("30")
def test_only_checkpoints_after_the_step_are_set_aside(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_checkpoint(tmp_path, step, _checkpoint(step))
    (tmp_path / "broken-step-00000003").mkdir()
    set_aside(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "broken-step-00000002",
        "broken-step-00000003",
        "step-00000001",
    ]
    assert (tmp_path / "broken-step-00000003" / "state.json").is_file()


@pytest.mark.kind("30")
def test_a_folder_that_cannot_be_read_is_a_checkpoint_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(CheckpointError, match=f"^{tmp_path} cannot be read: Permission denied; make it readable"):
        list_checkpoints(tmp_path)


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") == (None, [])
    (tmp_path / ".step-00000001.partial").mkdir()
    assert latest_checkpoint(tmp_path) == (None, [])


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "removed", "emptied"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    write_checkpoint(tmp_path, 1, _checkpoint(1))
    path = write_checkpoint(tmp_path, 2, _checkpoint(2)) / name
    data = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    else:
        data[len(data) // 2] ^= 4
        path.write_bytes({"cut": data[:-3], "flipped": data, "emptied": b""}[damage])
    found, broken = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.data == {"a": 1}
    assert len(broken) == 1
    assert "step-00000002 is broken" in broken[0]


def test_damaged_checkpoints_alone_are_no_fresh_start(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, _checkpoint(1))
    (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"(?s)step-00000001 is broken.*no whole checkpoint is left.*--overwrite"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("moment", ["write_tensors", "write_file", "_digest", "_flush_folder"])
def test_a_write_that_is_cut_short_leaves_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    write_checkpoint(tmp_path, 1, _checkpoint(1))

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, moment, cut)
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path, 2, _checkpoint(2))
    found, broken = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.data == {"a": 1}
    assert not broken
    write_checkpoint(tmp_path, 2, _checkpoint(2))
    assert _names(tmp_path) == ["step-00000001", "step-00000002"]
    assert not list(tmp_path.glob(".*"))


def test_a_step_can_be_written_again(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, _checkpoint(1))
    write_checkpoint(tmp_path, 1, _checkpoint(5))
    found, _ = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.data == {"a": 5}


def test_a_full_disk_is_a_checkpoint_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(CheckpointError, match=r"step-00000001 cannot be written.*No space left"):
        write_checkpoint(tmp_path, 1, _checkpoint(1))


def test_tied_weights_are_written_twice_and_read_alike(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    write_tensors(tmp_path / "x.safetensors", model.state_dict())
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, betas=(0.5, 0.7)),
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
        lambda parameters: torch.optim.ASGD(parameters, lr=0.1),
    ],
)
def test_an_optimizer_goes_on_from_its_split_state(make: Any) -> None:
    def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).pow(2).sum().backward()
            optimizer.step()

    torch_model, resumed_model = nn.Linear(3, 2), nn.Linear(3, 2)
    whole = make(torch_model.parameters())
    run(torch_model, whole, 3)
    resumed_model.load_state_dict(torch_model.state_dict())
    tensors, data = split_optimizer(whole.state_dict())
    resumed = make(resumed_model.parameters())
    resumed.load_state_dict(join_optimizer({k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(data))))
    run(torch_model, whole, 3)
    run(resumed_model, resumed, 3)
    assert torch.equal(torch_model.weight, resumed_model.weight)


@pytest.mark.kind("24")
def test_a_checkpoint_under_the_name_of_another_step_is_passed_over(tmp_path: Path) -> None:
    for step in (1, 2):
        write_checkpoint(tmp_path, step, Checkpoint({"a": torch.ones(1)}, {"step": step}))
    (tmp_path / "step-00000002").rename(tmp_path / "step-00000003")
    found, broken = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.data == {"step": 1}
    assert broken == [f"checkpoint {tmp_path / 'step-00000003'} is broken (state.json is that of step 2)"]
