"""Load the average of the weights from a checkpoint of any loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from counterpoint.core.errors import CheckpointError
from counterpoint.core.run.training.origin import averages_in
from counterpoint.integrations.state_file import STATE_FILE

__all__ = ["TRAINED", "average_from"]

TRAINED = "counterpoint_trained"
"""Where a Lightning checkpoint whose ``state_dict`` holds the average has the weights in training."""


def average_from(checkpoint: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights in a checkpoint, as the ``state_dict`` of the model, in the dtypes of its weights.

    Args:
        checkpoint: A checkpoint of Lightning's, a file or what ``torch.load`` returns of it; a folder that Hugging
            Face's Trainer or ``accelerator.save_state`` wrote; or what ``Engine.state_dict`` returns.

    Raises:
        CheckpointError: It is not there or not whole, is of a run without Counterpoint or without an average, or
            nothing has been averaged by then.

    >>> import counterpoint as cp
    >>> plan = cp.compose(["ema"], loss=torch.nn.MSELoss(), task="regression", inputs="features")
    >>> model = torch.nn.Linear(3, 1)
    >>> engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    >>> with engine.batch(torch.rand(4, 3), torch.rand(4, 1)):
    ...     loss = engine.step(lambda: torch.tensor(0.0))
    >>> sorted(average_from(engine.state_dict()))
    ['bias', 'weight']
    """
    state, weights = _parts(checkpoint) if isinstance(checkpoint, Mapping) else _read(Path(checkpoint))
    owner = _owner(state)
    prefix = f"{owner}.weights."
    average = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not weights:
        return average
    shared = {value.data_ptr(): average[name] for name, value in weights.items() if name in average}
    found = {name: average.get(name, shared.get(value.data_ptr(), value)) for name, value in weights.items()}
    return {name: value.to(weights[name].dtype) for name, value in found.items()}


def _owner(state: Mapping[str, Tensor]) -> str:
    """Return the method whose average it is."""
    owners = averages_in(state.get("origin"))
    if not owners:
        raise CheckpointError("the checkpoint is of a run without an average of weights, such as ema or swa")
    (owner,) = owners  # a plan has one at most
    if int(state[f"{owner}.updates"]) == 0:
        raise CheckpointError(f"{owner} has averaged nothing by this checkpoint: take a later one, or the weights")
    return owner


def _read(path: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    try:
        if path.is_dir():
            models = sorted(path.glob("model*.safetensors"))
            weights = {name: value for file in models for name, value in load_file(file).items()}
            return load_file(path / STATE_FILE), weights
        return _parts(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} has no state of Counterpoint's, or is not whole: {error}") from error


def _parts(checkpoint: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """Return the methods' state in a checkpoint, and the weights in training, if it has them."""
    if "callbacks" not in checkpoint:
        return checkpoint, {}
    states = [state for state in _states(checkpoint["callbacks"]) if "origin" in state]
    if not states:
        raise CheckpointError("the checkpoint is of a run without CounterpointCallback")
    return states[0], checkpoint.get(TRAINED, checkpoint["state_dict"])


def _states(callbacks: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (state for state in callbacks.values() if isinstance(state, Mapping))
