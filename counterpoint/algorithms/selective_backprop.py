"""Selective backprop: train on the samples of each batch that the model finds hard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from counterpoint.core import Algorithm, Batch, BatchSpec, Edit, Rng, transform
from counterpoint.core.declare.kinds import BATCH_SIZE, INPUT_KINDS, TARGET_KINDS, Axis

__all__ = ["SelectiveBackprop", "select_by_loss"]


def select_by_loss(losses: Tensor, keys: Tensor, keep: int, beta: float) -> Tensor:
    """Select ``keep`` samples without replacement, with probability proportional to ``percentile(loss) ** beta``.

    ``losses`` holds N numbers. ``keys`` holds N numbers from the uniform distribution over [0, 1), the only randomness.
    ``keep`` is between 1 and N. ``beta`` is at least 0 (0: losses do not matter; infinite: the highest losses). The
    sample of rank r, counted from 0 at the lowest loss, has the percentile ``(r + 0.5) / N``; equal losses rank as they
    stand, NaN above all. Returns int64 indices, ascending. Samples are those with the highest ``u ** (1 / weight)``,
    which is sampling one after another from what is left (Efraimidis and Spirakis, Information Processing Letters 2006,
    https://doi.org/10.1016/j.ipl.2005.11.003).

    >>> select_by_loss(torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([0.1, 0.9, 0.8, 0.7]), 2, 1.0)
    tensor([2, 3])
    >>> select_by_loss(torch.tensor([3.0, 1.0, 2.0, 4.0]), torch.tensor([0.1, 0.9, 0.8, 0.7]), 2, float("inf"))
    tensor([0, 3])

    Jiang et al., Accelerating Deep Learning by Focusing on the Biggest Losers, 2019, https://arxiv.org/abs/1910.00762
    """
    order = losses.argsort(stable=True)
    if beta == float("inf"):
        return order[-keep:].sort().values
    percentiles = (torch.arange(len(losses), device=losses.device, dtype=torch.float64) + 0.5) / len(losses)
    # The lowest of log(-log(u)) - log(weight) are the highest of u ** (1 / weight), without underflow.
    drawn = torch.log(-torch.log(keys[order].double())) - beta * percentiles.log()
    return order[drawn.argsort(stable=True)[:keep]].sort().values


class SelectiveBackprop(Algorithm[Tensor], name="selective_backprop"):
    """Train on the samples of each batch that the model finds hard.

    An extra forward pass, in evaluation mode and without gradients, computes the loss of each sample of the unedited
    batch. ``round(keep * N)`` samples of N are kept, at least one, in the order of the batch. Other methods and the
    training pass get only these. With ``selection="sample"`` they are drawn with probability proportional to
    ``percentile(loss) ** beta``; with ``"top"`` they are those of the highest losses. The loss must support losses of
    single samples (otherwise ``no-sample-losses``).

    >>> SelectiveBackprop(keep=0.25).sharpness
    3.0

    Jiang et al., Accelerating Deep Learning by Focusing on the Biggest Losers, 2019, https://arxiv.org/abs/1910.00762
    """

    keep: float = Field(default=0.5, gt=0, le=1, description="share of the samples that train")
    selection: Literal["sample", "top"] = Field(
        default="sample", description="sample: draws them, the harder the likelier; top: takes the hardest"
    )
    beta: float | None = Field(
        default=None, ge=0, le=1e6, description="how strongly the loss counts when drawing; 1 / keep - 1 if not given"
    )

    @property
    def sharpness(self) -> float:
        """The exponent of the percentile: ``beta``, or that with which the paper keeps the share ``keep``."""
        if self.selection == "top":
            return float("inf")
        return 1 / self.keep - 1 if self.beta is None else self.beta

    def draw(self, batch: BatchSpec, rng: Rng) -> Tensor:
        """Draw a number for each sample."""
        return rng.uniform(size=(batch.size,))

    @transform(
        inputs=Edit(frozenset(INPUT_KINDS), acts=frozenset({Axis.SAMPLE}), resizes=True),
        targets=Edit(frozenset(TARGET_KINDS), acts=frozenset({Axis.SAMPLE}), resizes=True),
        claims=BATCH_SIZE,
        unedited=True,
        sample_losses=True,
    )
    def apply(self, batch: Batch, keys: Tensor, losses: Callable[[], Tensor]) -> Batch:
        """Keep the selected samples."""
        size = len(batch.inputs)
        keep = max(1, round(self.keep * size))
        if keep == size:
            return batch
        kept = select_by_loss(losses(), keys, keep, self.sharpness)
        return batch.with_inputs(batch.inputs[kept]).with_targets(batch.targets[kept])
