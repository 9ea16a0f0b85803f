"""The state of an engine, in a file next to those of another loop's checkpoint."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from counterpoint.core.errors import CheckpointError
from counterpoint.core.run.training.engine import Engine

__all__ = ["STATE_FILE", "load_state", "save_state"]

STATE_FILE = "counterpoint.safetensors"
"""The name of the file."""


def save_state(engine: Engine, folder: Path) -> None:
    """Write the state of the methods, the number of batches done, and the plan."""
    save_file(engine.state_dict(), folder / STATE_FILE, metadata={"fingerprint": engine.plan.fingerprint})


def load_state(engine: Engine, folder: Path, *, allow_changes: bool = False) -> None:
    """Take back what ``save_state`` wrote.

    Raises ``CheckpointError`` if it is not whole, and, without ``allow_changes``, if it is of another plan or of other
    versions.
    """
    path, fingerprint = folder / STATE_FILE, engine.plan.fingerprint
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not there or not whole, and the run cannot go on without it: {error}; resume from another "
            "checkpoint, or start a new run from this one's weights"
        ) from error
    if about.get("fingerprint") != fingerprint and not allow_changes:
        raise CheckpointError(
            f"{path} is of the plan {about.get('fingerprint')}, and this one is {fingerprint}, so that the run would "
            "not go on as it began; compose the same plan, start a new run from this checkpoint's weights, or, "
            "knowing that the run then differs, give allow_changes=True"
        )
    engine.load_state_dict(packed, allow_changes=allow_changes)
