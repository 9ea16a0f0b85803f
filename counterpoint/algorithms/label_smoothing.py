"""Label smoothing: move a share of each target's mass evenly over the classes."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from counterpoint.core import Algorithm, Batch, Law, transform
from counterpoint.core.declare.effects import Declaration
from counterpoint.core.declare.kinds import DENSE, MULTI_HOT, SMOOTHING
from counterpoint.core.errors import DataError

__all__ = ["LabelSmoothing", "smooth_labels", "smooth_multi_hot"]


def smooth_labels(targets: Tensor, smoothing: float) -> Tensor:
    """Move the share ``smoothing`` of each row's mass evenly over the classes: ``(1 - s) * y + s / C * y.sum(class)``.

    ``targets`` is dense, (N, C) or (N, C, positions), with the class axis second; each row keeps its mass, so that an
    ignored (all-zero) row stays zero. ``smoothing`` lies between 0 and 1. Raises ``DataError`` for targets that are not
    dense.

    >>> import torch
    >>> smooth_labels(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 0.5)
    tensor([[0.7500, 0.2500],
            [0.0000, 0.0000]])

    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016,
    https://arxiv.org/abs/1512.00567
    """
    if not targets.is_floating_point() or targets.ndim < 2:
        raise DataError(
            f"smoothing takes dense targets (N, C, ...), not {targets.dtype} of shape {tuple(targets.shape)}"
        )
    evenly = targets.sum(1, keepdim=True).mul_(smoothing / targets.shape[1])
    return (targets * (1 - smoothing)).add_(evenly)


def smooth_multi_hot(targets: Tensor, smoothing: float) -> Tensor:
    """Move each of several independent labels towards 0.5: ``(1 - s) * y + s / 2``.

    ``targets`` is floating, (N, C), between 0 and 1; ``smoothing`` lies between 0 and 1.

    >>> import torch
    >>> smooth_multi_hot(torch.tensor([[1.0, 0.0]]), 0.5)
    tensor([[0.7500, 0.2500]])
    """
    return (targets * (1 - smoothing)).add_(smoothing / 2)


class LabelSmoothing(Algorithm[None], name="label_smoothing"):
    """Move a share of each target's mass evenly over the classes; of multi-hot targets, each label towards 0.5.

    >>> LabelSmoothing(smoothing=0.1).smoothing
    0.1

    Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016,
    https://arxiv.org/abs/1512.00567
    """

    tasks = frozenset({"multiclass", "segmentation", "multilabel"})

    smoothing: float = Field(default=0.1, ge=0, le=1, description="share of the mass that is spread over all classes")

    def declared(self) -> Declaration:
        """Say how much of the smoothing slot this instance takes."""
        return self.declaration.claim(apply=self.smoothing)

    @transform(targets={DENSE, MULTI_HOT}, law=Law.REDISTRIBUTE, claims=SMOOTHING)
    def apply(self, batch: Batch, draws: None) -> Batch:
        """Smooth the targets."""
        smooth = smooth_multi_hot if batch.targets_kind == MULTI_HOT else smooth_labels
        return batch.with_targets(smooth(batch.targets, self.smoothing))
