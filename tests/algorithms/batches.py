"""Small batches of every task, and a way to run a plan that also shows its draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core.declare.kinds import INPUT_KINDS

CLASSES = 4
SHAPE = (3, 5, 7)  # neither square nor even, so that a mistaken axis shows
LOSSES = {
    "multiclass": nn.CrossEntropyLoss,
    "segmentation": nn.CrossEntropyLoss,
    "multilabel": nn.BCEWithLogitsLoss,
    "regression": nn.MSELoss,
}


def plan_for(algorithms: Sequence[object], task: str = "multiclass", **stated: Any) -> cp.Plan:
    """Compose for a task, with the loss that fits it, for a model that takes whatever it gets."""
    stated = {"loss": LOSSES[task](), "num_classes": CLASSES, "seed": 17, "model_inputs": INPUT_KINDS, **stated}
    return cp.compose(algorithms, task=task, **stated)


def images(size: int, dtype: torch.dtype = torch.float32, kind: str = "image") -> Tensor:
    """Return random images, of mean 0 unless the kind forbids it."""
    generator = torch.Generator().manual_seed(size)
    if kind == "bytes":
        return torch.randint(256, (size, *SHAPE), generator=generator, dtype=torch.uint8)
    values = torch.rand(size, *SHAPE, generator=generator, dtype=torch.float64)
    return (values if kind == "unit" else values * 4 - 2).to(dtype)


def targets(size: int, task: str = "multiclass", *, dense: bool = False, ignored: bool = False) -> Tensor:
    """Return random targets: class indices, or dense ones in float32; with some ignored positions if asked."""
    generator = torch.Generator().manual_seed(1000 + size)
    if task == "multilabel":
        return (torch.rand(size, CLASSES, generator=generator) < 0.5).float()
    if task == "regression":
        return torch.randn(size, 2, generator=generator)
    shape = (size, *SHAPE[1:]) if task == "segmentation" else (size,)
    if dense:
        rows = -torch.rand(*shape, CLASSES, generator=generator, dtype=torch.float64).log()
        rows = (rows / rows.sum(-1, keepdim=True)).movedim(-1, 1)
        return (rows * _counted(shape, generator).unsqueeze(1) if ignored else rows).float()
    indices = torch.randint(CLASSES, shape, generator=generator)
    return torch.where(_counted(shape, generator), indices, -100) if ignored else indices


def _counted(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator) < 0.7


def dense(given: Tensor) -> NDArray[np.float64]:
    """Return targets as float64 rows, one-hot where they are class indices; written out as loops."""
    if given.is_floating_point():
        return given.double().numpy()
    values = given.numpy()
    rows = np.zeros((len(values), CLASSES, *values.shape[1:]))
    for place in np.ndindex(*values.shape):
        if values[place] != -100:
            rows[(place[0], values[place], *place[1:])] = 1.0
    return rows


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, to compare exactly, signs of zero included."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def run(
    plan: cp.Plan, inputs: Tensor, given: Tensor, step: int = 0, *, rank: int = 0, donate: bool = False
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Run the batch steps of a plan at a step; return the batch and the draws of the methods that acted."""
    engine = cp.Engine(plan, model=nn.Identity(), rank=rank)
    engine.batches = step
    with engine.batch(inputs, given, donate=donate) as batch:
        return batch.inputs, batch.targets, engine.draws()


def draws_of(plan: cp.Plan, step: int = 0, *, rank: int = 0, size: int = 6, task: str = "multiclass") -> dict[str, Any]:
    """Return the draws of the methods that act on a step."""
    return run(plan, images(size), targets(size, task), step, rank=rank)[2]
