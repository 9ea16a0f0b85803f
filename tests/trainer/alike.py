"""A method, a model and data with which several processes train what one would, for the tests of distributed runs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import counterpoint as cp
from counterpoint import CONTINUOUS, MIXABLE, MIXING
from counterpoint.algorithms.mixup import mix
from tests.trainer.support import blobs

SIZE, CLASSES, SHAPE = 96, 5, (6,)
WEIGHT = [0.5, 2.0, 1.0, 0.25, 3.0]


class Share(NamedTuple):
    """The share that each sample keeps."""

    lam: Tensor


class PairMix(cp.Algorithm[Share], name="pair_mix", shared=True):
    """Mixes each sample with its neighbour by one share, the same on every rank: so it does not matter who has it."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Share:
        return Share(rng.uniform())

    @cp.transform(inputs=CONTINUOUS, targets=MIXABLE, law=cp.Law.CONVEX, claims=MIXING)
    def apply(self, batch: cp.Batch, draws: Share) -> cp.Batch:
        partners = torch.arange(len(batch.inputs)) ^ 1
        inputs, targets = (mix(values, draws.lam, partners) for values in (batch.inputs, batch.targets))
        return batch.with_inputs(inputs).with_targets(targets)


def uneven() -> tuple[TensorDataset, TensorDataset]:
    """Examples to train on, of which many are ignored, and 37 to evaluate on."""
    inputs, targets = blobs(SIZE, CLASSES, SHAPE).tensors
    ignored = targets.clone()
    ignored[torch.rand(SIZE, generator=torch.Generator().manual_seed(4)) < torch.linspace(0, 0.9, SIZE)] = -100
    return TensorDataset(inputs, ignored), TensorDataset(inputs[:37], targets[:37])


def small_model() -> nn.Module:
    """A model without batch norm and dropout, of the same weights in every process."""
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, CLASSES))


def global_batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Up to six batches of 24 examples, ignored ones among them; of the second, the last half all are."""
    generator = torch.Generator().manual_seed(8)
    inputs = torch.randn(6, 24, *SHAPE, generator=generator)
    targets = torch.randint(0, CLASSES, (6, 24), generator=generator)
    targets[torch.rand(6, 24, generator=generator) < 0.3] = -100
    targets[1, 12:] = -100
    return list(zip(inputs, targets, strict=True))[:count]
