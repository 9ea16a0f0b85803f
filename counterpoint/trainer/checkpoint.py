"""Checkpoints: whole or not there, free of pickle, and checked before they are believed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from counterpoint.core.errors import CheckpointError

__all__ = [
    "Checkpoint",
    "checkpoint_path",
    "join_optimizer",
    "latest_checkpoint",
    "list_checkpoints",
    "prune_checkpoints",
    "set_aside",
    "split_optimizer",
    "write_checkpoint",
    "write_file",
    "write_tensors",
]

TENSORS, STATE, CHECKSUMS = "tensors.safetensors", "state.json", "checksums.json"
KEPT = 2
_NAME = re.compile(r"step-\d+")
_PARTIAL = ".{}.partial"


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on: tensors by name, and the rest as plain data."""

    tensors: dict[str, Tensor]
    data: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors under ``name.``, without it."""
        return {
            key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")
        }


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint of a step is, once it is whole."""
    return folder / f"step-{step:08d}"


def write_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint as ``folder/step-…`` and return that path.

    It is written under a temporary name, flushed to the disk, and renamed, so that under its own name it is whole.
    Raises ``CheckpointError`` if it cannot be written.
    """
    final = checkpoint_path(folder, step)
    partial = folder / _PARTIAL.format(final.name)
    try:
        folder.mkdir(exist_ok=True)
        for left in folder.glob(_PARTIAL.format("*")):  # by a kill
            shutil.rmtree(left)
        partial.mkdir()
        write_tensors(partial / TENSORS, checkpoint.tensors)
        write_file(partial / STATE, json.dumps(checkpoint.data, indent=1))
        write_file(partial / CHECKSUMS, json.dumps({name: _digest(partial / name) for name in (TENSORS, STATE)}))
        _flush_folder(partial)
        if final.exists():  # one that was found broken, or one after which the run was resumed from an older one
            shutil.rmtree(final)
        partial.rename(final)
        _flush_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {final} cannot be written: {error}; the ones before it are whole: mend this, and go on "
            "with --resume"
        ) from error
    return final


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint, if there is one, and a message for each newer one that is broken.

    Raises ``CheckpointError`` if there are checkpoints, and none is whole.
    """
    broken: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return _read(path), broken
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            broken.append(f"checkpoint {path} is broken ({error})")
    if broken:
        raise CheckpointError("\n".join([*broken, "no whole checkpoint is left; start afresh with --overwrite"]))
    return None, []


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def prune_checkpoints(folder: Path, keep: int = KEPT) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    for path in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def set_aside(folder: Path, after: int) -> None:
    """Rename the checkpoints after step ``after``, which are broken, so that they do not count as the newest."""
    for path in list_checkpoints(folder):
        if _step(path) > after:
            aside = path.with_name(f"broken-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def _read(path: Path) -> Checkpoint:
    for name, digest in json.loads((path / CHECKSUMS).read_text(encoding="utf-8")).items():
        if _digest(path / name) != digest:
            raise ValueError(f"{name} does not match its checksum")
    return Checkpoint(load_file(path / TENSORS), json.loads((path / STATE).read_text(encoding="utf-8")))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split what an optimizer's ``state_dict`` returned into tensors, named ``parameter.key``, and plain data.

    >>> import torch
    >>> tensors, data = split_optimizer({"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]})
    >>> list(tensors), data
    (['0.step'], {'state': {}, 'param_groups': [{'lr': 0.1}]})
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def join_optimizer(tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what ``split_optimizer`` split."""
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in data["state"].items()}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": data["param_groups"]}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all; copies are taken, so tied weights are written once each."""
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    with _replacing(path) as partial:
        partial.write_bytes(save(copies))  # save_file would make a file that only its owner may read


def write_file(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with _replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it once it is on the disk."""
    partial = path.with_name(_PARTIAL.format(path.name))
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a folder's new names last through a loss of power, where the system can open folders."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
