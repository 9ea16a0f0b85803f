"""A case of the laws: a list of methods, the facts, what the batches look like, and a model for them."""

from __future__ import annotations

import copy
import functools
import typing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import counterpoint as cp

CLASSES, CHANNELS, HEIGHT, WIDTH, FEATURES = 3, 3, 6, 5, 12
STEPS = 3
Edited = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Composition:
    """What a case composes: the list, the facts, and what the batch looks like.

    ``rows`` is the dtype of targets that are floating; ``dense`` says that class targets come as such rows already.
    ``loss`` is the registered name of the loss; ``log_p`` says that it takes log-probabilities.
    ``aim`` is the code of the fault that was put in on purpose, ``extra`` a method that may be added, ``number`` what
    all of it was drawn from.
    """

    algorithms: tuple[Any, ...]
    facts: dict[str, Any]
    size: int
    dtype: torch.dtype
    dense: bool
    seed: int
    number: int = 0
    loss: str = "none"
    log_p: bool = False
    rows: torch.dtype = torch.float32
    aim: str | None = None
    extra: cp.Algorithm[Any] | None = None
    ignore_index: int = -100

    @property
    def listed(self) -> list[cp.Algorithm[Any]]:
        """The items of the list that are algorithms."""
        return [item for item in self.algorithms if isinstance(item, cp.Algorithm)]

    def inputs(self, step: int) -> Tensor:
        return self._batches[step][0]

    def targets(self, step: int) -> Tensor:
        return self._batches[step][1]

    @cached_property
    def _batches(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple((self._inputs(step), self._targets(step)) for step in range(STEPS))

    def _inputs(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        if self.facts["inputs"] == "bytes":
            return torch.randint(256, (self.size, CHANNELS, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
        shape = (self.size, FEATURES) if self.facts["inputs"] == "features" else (self.size, CHANNELS, HEIGHT, WIDTH)
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(self.dtype)

    def _targets(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(7777 * self.seed + step)
        task = self.facts["task"]
        if task == "multilabel":
            return (torch.rand(self.size, CLASSES, generator=generator) < 0.5).to(self.rows)
        if task == "regression":
            return torch.randn(self.size, CLASSES, generator=generator, dtype=torch.float64).to(self.rows)
        shape = (self.size, HEIGHT, WIDTH) if task == "segmentation" else (self.size,)
        ignored = torch.rand(*shape, generator=generator) < 0.2
        if self.dense:
            logits = 3 * torch.randn(self.size, CLASSES, *shape[1:], generator=generator, dtype=torch.float64)
            return logits.softmax(1).masked_fill(ignored.unsqueeze(1), 0).to(self.rows)
        indices = torch.randint(CLASSES, shape, generator=generator)
        return torch.where(ignored, self.ignore_index, indices)

    def losses(self, step: int) -> Tensor:
        """Return stand-ins for the losses of the samples."""
        return torch.rand(self.size, generator=torch.Generator().manual_seed(31 * self.seed + step))

    def model(self) -> nn.Module:
        """Return a model for the task and the inputs, the same one at every call."""
        return copy.deepcopy(trained(self.facts["task"], self.facts["inputs"] == "features", self.log_p))


@functools.cache
def trained(task: str, features: bool, log_p: bool) -> nn.Module:
    """Return the model from which the cases of a task start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small(task, features=features, log_p=log_p)


class Small(nn.Module):
    """A model with named parts that takes any of the inputs and gives outputs for any of the tasks."""

    def __init__(self, task: str, *, features: bool, log_p: bool = False) -> None:
        super().__init__()
        self.task, self.features, self.log_p = task, features, log_p
        self.stem = nn.Linear(FEATURES, 8) if features else nn.Conv2d(CHANNELS, 8, 3, padding=1, stride=1)
        self.norm = nn.Identity() if features else nn.BatchNorm2d(8)
        self.pool = nn.Identity() if features else nn.MaxPool2d(2)
        self.head = nn.Linear(8, CLASSES) if features or task != "segmentation" else nn.Conv2d(8, CLASSES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.stem(inputs.to(self.stem.weight.dtype))).relu()
        if not self.features and self.task != "segmentation":
            hidden = self.pool(hidden).mean((2, 3))
        outputs = typing.cast(Tensor, self.head(hidden))
        return outputs.log_softmax(1) if self.log_p else outputs


class Through(nn.Module):
    """A model with the same named parts that gives what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Identity(), nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        return typing.cast(Tensor, self.head(self.stem(inputs)))


def edited(plan: cp.Plan, case: Composition, step: int) -> Edited:
    """Return a batch as the plan edits it, with stand-ins for the losses of samples."""
    batch, _ = plan.runner.edit(
        case.inputs(step), case.targets(step), step, rank=0, sample_losses=lambda view: case.losses(step)
    )
    return batch.inputs, batch.targets


def bits(tensor: Tensor) -> tuple[object, bytes]:
    raw = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return (tensor.dtype, tensor.shape), raw
