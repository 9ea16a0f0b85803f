"""The exported weights of a run: safetensors, with a record of the run and a checksum in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from counterpoint.trainer.runs.checkpoint import write_tensors
from counterpoint.trainer.runs.integrity import DamagedError, read_bytes, seal, tensors_digest, unseal

__all__ = ["read_model", "write_model"]

_KEY = "counterpoint"
_TENSORS = "tensors"


def write_model(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write weights under the names of a ``state_dict``, whole or not at all, with plain data about the run.

    Raises ``OSError``.
    """
    sealed = seal({**record, _TENSORS: tensors_digest(tensors)})
    write_tensors(path, tensors, {_KEY: json.dumps(sealed)})  # one key: safetensors keeps several in no fixed order


def read_model(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights that ``write_model`` has written, and the record.

    Raises ``DamagedError`` if the file was changed since, and ``RunDirectoryError`` if the system refuses to read it.
    """
    read_bytes(path, 1)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"it is not a whole safetensors file: {error}") from error
    if _KEY not in metadata:
        raise DamagedError("it has no record of the run that wrote it")
    record = unseal(metadata[_KEY])
    if record.pop(_TENSORS, None) != tensors_digest(tensors):
        raise DamagedError("its weights do not match their checksum")
    return tensors, record
