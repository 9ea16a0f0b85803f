"""Checkpoints: written completely or not at all, without pickle, and checked before they are loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from counterpoint.core.errors import CheckpointError
from counterpoint.trainer.runs.integrity import (
    FORMAT,
    GONE,
    DamagedError,
    OtherFormatError,
    file_digest,
    read_bytes,
    seal,
    unseal,
)

__all__ = [
    "Checkpoint",
    "checkpoint_path",
    "join_optimizer",
    "latest_checkpoint",
    "list_checkpoints",
    "prune_checkpoints",
    "remove",
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
    """The state that a run is resumed from: tensors by name, and the rest as plain data."""

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
            remove(left)
        partial.mkdir()
        write_tensors(partial / TENSORS, checkpoint.tensors)
        write_file(partial / STATE, json.dumps({"format": FORMAT, **checkpoint.data}, indent=1))
        files = {name: _digest(partial / name) for name in (TENSORS, STATE)}
        write_file(partial / CHECKSUMS, json.dumps(seal({"files": files})))
        _flush_folder(partial)
        remove(final)  # a broken one, or one that is newer than the one from which the run was resumed
        partial.rename(final)
        _flush_folder(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {final} cannot be written: {error}; the ones before it are whole: fix this, and go on "
            "with --resume"
        ) from error
    return final


def latest_checkpoint(
    folder: Path, check: Callable[[Mapping[str, Any]], None] = lambda data: None
) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint, if there is one, and a message for each newer one that is broken.

    ``check(data)`` raises ``ValueError`` for data that lacks something. Raises ``CheckpointError`` if there are
    checkpoints and none is whole, if the newest whole one is of another format, or if one cannot be read.
    """
    broken: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            found = _read(path)
            check(found.data)
        except OtherFormatError as error:
            raise CheckpointError(
                f"checkpoint {path}: {error}; go on with the version that wrote it, choose another run_dir, or start "
                "afresh with --overwrite"
            ) from error
        except (ValueError, SafetensorError) as error:
            broken.append(f"checkpoint {path} is broken ({error})")
        except OSError as error:
            if error.errno not in GONE:
                raise CheckpointError(_unreadable(path, error)) from error
            broken.append(f"checkpoint {path} is broken ({error.strerror}: {error.filename})")
        else:
            return found, broken
    if broken:
        raise CheckpointError("\n".join([*broken, "no whole checkpoint is left; start afresh with --overwrite"]))
    return None, []


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the finished checkpoints in ``folder``, oldest first; raises ``CheckpointError`` if it cannot be read."""
    try:
        if not folder.is_dir():
            return []
        return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)
    except OSError as error:
        raise CheckpointError(_unreadable(folder, error)) from error


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path} cannot be read: {error.strerror or error}; make it readable, or choose another run_dir"


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def prune_checkpoints(folder: Path, keep: int = KEPT) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    for path in list_checkpoints(folder)[:-keep]:
        with suppress(OSError):
            remove(path)


def set_aside(folder: Path, after: int) -> None:
    """Rename the checkpoints after step ``after``, which are broken: they are no longer the newest."""
    for path in list_checkpoints(folder):
        if _step(path) > after:
            aside = path.with_name(f"broken-{path.name}")
            try:
                remove(aside)
                path.rename(aside)
            except OSError as error:
                raise CheckpointError(
                    f"the broken checkpoint {path} cannot be renamed to {aside.name}: {error.strerror}; move it away"
                ) from error


def remove(path: Path) -> None:
    """Delete a file, or a folder and all that is in it, if there is one; raises ``OSError``."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> Checkpoint:
    try:
        files = unseal(read_bytes(path / CHECKSUMS)).get("files")
    except DamagedError as error:
        raise type(error)(f"{CHECKSUMS}: {error}") from error
    if not isinstance(files, dict) or files.keys() != {TENSORS, STATE}:
        raise DamagedError(f"{CHECKSUMS}: it does not list {TENSORS} and {STATE}")
    for name, digest in files.items():
        if _digest(path / name) != digest:
            raise DamagedError(f"{name} does not match its checksum")
    data = json.loads((path / STATE).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise DamagedError(f"{STATE} is of another format than {CHECKSUMS}")
    if data.get("step", _step(path)) != _step(path):
        raise DamagedError(f"{STATE} is that of step {data['step']}")
    return Checkpoint(load_file(path / TENSORS), data)


def _digest(path: Path) -> str:
    return file_digest(path)


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, whole or not at all; copies are taken, so tied weights are written once each."""
    copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    with _replacing(path) as partial:
        partial.write_bytes(save(copies, metadata))  # save_file would create a file that only its owner may read


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
    """Flush a folder's new names to the disk, if the system can open folders."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
