"""The weights in a checkpoint of Hugging Face's Trainer, and whether the model has all of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from counterpoint.core.errors import CheckpointError

__all__ = ["checkpoint_of", "complete_weights"]


def checkpoint_of(resume_from_checkpoint: str | bool | None, args: TrainingArguments) -> str | None:
    """Return the checkpoint that ``Trainer.train`` resumes from, given its argument; ``None`` for a new run."""
    if resume_from_checkpoint is True:
        found: str | None = get_last_checkpoint(args.output_dir)  # type: ignore[no-untyped-call]
        return found
    return resume_from_checkpoint or None


def complete_weights(model: nn.Module, folder: Path) -> None:
    """Check that the Trainer has loaded every weight of a checkpoint, and load those that it has not.

    The Trainer leaves a weight whose name is not in the file as it was made. Models of the library are saved under
    names of earlier versions, which ``from_pretrained`` knows. Raises ``CheckpointError`` naming what is missing where
    that does not help.
    """
    differing = _differing(model, folder)
    if not differing:
        return
    reason = _load_by_the_library(model, folder) if isinstance(model, PreTrainedModel) else "it is no PreTrainedModel"
    if reason:
        raise CheckpointError(
            f"{folder} {differing}: training would go on from weights that were never trained, and from_pretrained "
            f"cannot load them ({reason}); resume in the versions that saved it, with the same model"
        )


def _differing(model: nn.Module, folder: Path) -> str:
    """Say which weights have no name in a checkpoint, and which names no weight; one that is shared is saved once."""
    saved = _saved_names(folder)
    if saved is None:
        return ""
    own: dict[object, list[str]] = {}
    for name, value in model.state_dict().items():
        own.setdefault((value.data_ptr(), value.shape) if value.numel() else name, []).append(name)
    missing = [names[0] for names in own.values() if saved.isdisjoint(names)]
    unknown = saved.difference(*own.values())
    if not missing and not unknown:
        return ""
    return f"has no weights for {_listed(missing)} of the model, and has {_listed(unknown)}, which the model has not"


def _load_by_the_library(model: PreTrainedModel, folder: Path) -> str:
    """Load a checkpoint by ``from_pretrained``, which maps names of other versions; return why it cannot."""
    dtype = "dtype" if hasattr(model.config, "dtype") else "torch_dtype"  # its name before transformers 4.56
    settings: dict[str, Any] = {dtype: model.dtype, "output_loading_info": True}
    with torch.random.fork_rng():  # layers are made before their weights are loaded
        found: Any = type(model).from_pretrained(folder, **settings)
    loaded, about = found
    wrong = [(key, about.get(key)) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    reason = "; ".join(f"{key}: {_listed(map(str, names))}" for key, names in wrong if names)
    if reason:
        return reason
    try:
        model.load_state_dict(loaded.state_dict())
    except RuntimeError as error:
        return str(error)
    return ""


def _saved_names(folder: Path) -> set[str] | None:
    """Return the names of the weights in a checkpoint; ``None`` where they are not in safetensors."""
    files = sorted(folder.glob("model*.safetensors"))
    names: set[str] = set()
    for path in files:
        with safe_open(path, "pt") as file:
            names.update(file.keys())
    return names if files else None


def _listed(names: Iterable[str], most: int = 3) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return (", ".join(ordered[:most]) or "nothing") + more
