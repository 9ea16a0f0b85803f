"""The losses that a config can name: their settings, checked, and the torch module they build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from counterpoint.losses.binary import ThresholdedBCEWithLogitsLoss
from counterpoint.losses.focal import BinaryFocalLoss, FocalLoss

__all__ = [
    "BinaryCrossEntropy",
    "BinaryFocal",
    "CrossEntropy",
    "Focal",
    "KLDivergence",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "NegativeLogLikelihood",
]

# Strict everywhere else, but a list in a config must become a tuple here.
Weights = Annotated[tuple[Annotated[float, Field(ge=0, le=1e12)], ...], Field(strict=False, min_length=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class _RegisteredLoss(_Settings):
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="whether the losses of a batch are averaged or added"
    )


class CrossEntropy(_RegisteredLoss):
    """Cross-entropy from logits, on class indices or class probabilities.

    >>> CrossEntropy(label_smoothing=0.1).build()
    CrossEntropyLoss()
    """

    weight: Weights | None = Field(default=None, description="a factor for each class, 0 or above; none: all 1")
    ignore_index: int = Field(
        default=-100, ge=-(2**63), lt=2**63, description="the class index whose positions do not count"
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, le=1, description="share of each target spread evenly over the classes, 0 to 1"
    )

    def build(self) -> nn.Module:
        """Return a ``torch.nn.CrossEntropyLoss`` with these settings."""
        return nn.CrossEntropyLoss(
            weight=_tensor(self.weight),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )


class BinaryCrossEntropy(_RegisteredLoss):
    """Binary cross-entropy from logits, on multi-hot targets, or on class indices as one label for each class.

    >>> BinaryCrossEntropy(pos_weight=(1.0, 4.0)).build().pos_weight
    tensor([1., 4.])
    """

    weight: Weights | None = Field(default=None, description="a factor for each label, 0 or above; none: all 1")
    pos_weight: Weights | None = Field(
        default=None, description="a factor for the positive part of each label, 0 or above; none: all 1"
    )
    target_threshold: float | None = Field(
        default=None, ge=0, lt=1, description="targets above it count as 1 and others as 0; none: as they are"
    )

    def build(self) -> nn.Module:
        """Return a ``torch.nn.BCEWithLogitsLoss`` with these settings, or with a threshold this package's own."""
        weight, pos_weight = _tensor(self.weight), _tensor(self.pos_weight)
        if self.target_threshold is None:
            return nn.BCEWithLogitsLoss(weight=weight, pos_weight=pos_weight, reduction=self.reduction)
        return ThresholdedBCEWithLogitsLoss(
            self.target_threshold, weight=weight, pos_weight=pos_weight, reduction=self.reduction
        )


class NegativeLogLikelihood(_RegisteredLoss):
    """Negative log-likelihood from log-probabilities, on class indices or class probabilities.

    >>> NegativeLogLikelihood().build()
    NLLLoss()
    """

    weight: Weights | None = Field(default=None, description="a factor for each class, 0 or above; none: all 1")
    ignore_index: int = Field(
        default=-100, ge=-(2**63), lt=2**63, description="the class index whose positions do not count"
    )

    def build(self) -> nn.Module:
        """Return a ``torch.nn.NLLLoss`` with these settings."""
        return nn.NLLLoss(weight=_tensor(self.weight), ignore_index=self.ignore_index, reduction=self.reduction)


class KLDivergence(_Settings):
    """Kullback-Leibler divergence from log-probabilities, on class probabilities.

    >>> KLDivergence().build()
    KLDivLoss()
    """

    reduction: Literal["batchmean", "mean", "sum"] = Field(
        default="batchmean",
        description="what the sum of a batch is divided by: its samples, all its elements, or nothing",
    )

    def build(self) -> nn.Module:
        """Return a ``torch.nn.KLDivLoss`` with these settings."""
        return nn.KLDivLoss(reduction=self.reduction)


class Focal(_RegisteredLoss):
    """Focal loss of a softmax, from logits, on class indices or class probabilities.

    >>> Focal(gamma=1.0).build()
    FocalLoss()
    """

    gamma: float = Field(
        default=2.0, ge=0, le=1e3, description="how much less the likely classes count; 0 is cross-entropy"
    )
    weight: Weights | None = Field(default=None, description="a factor for each class, 0 or above; none: all 1")
    ignore_index: int = Field(
        default=-100, ge=-(2**63), lt=2**63, description="the class index whose positions do not count"
    )

    def build(self) -> nn.Module:
        """Return a ``counterpoint.losses.FocalLoss`` with these settings."""
        return FocalLoss(
            self.gamma, weight=_tensor(self.weight), ignore_index=self.ignore_index, reduction=self.reduction
        )


class BinaryFocal(_RegisteredLoss):
    """Focal loss of a sigmoid for each label, from logits, on multi-hot targets.

    >>> BinaryFocal(alpha=0.25).build()
    BinaryFocalLoss()
    """

    gamma: float = Field(
        default=2.0, ge=0, le=1e3, description="how much less the likely labels count; 0: all count the same"
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="factor of the positive part; that of the negative part is the rest; none: both have 1",
    )

    def build(self) -> nn.Module:
        """Return a ``counterpoint.losses.BinaryFocalLoss`` with these settings."""
        return BinaryFocalLoss(self.gamma, alpha=self.alpha, reduction=self.reduction)


class MeanSquaredError(_RegisteredLoss):
    """Squared error, on continuous targets.

    >>> MeanSquaredError().build()
    MSELoss()
    """

    def build(self) -> nn.Module:
        """Return a ``torch.nn.MSELoss`` with these settings."""
        return nn.MSELoss(reduction=self.reduction)


class MeanAbsoluteError(_RegisteredLoss):
    """Absolute error (L1), on continuous targets.

    >>> MeanAbsoluteError().build()
    L1Loss()
    """

    def build(self) -> nn.Module:
        """Return a ``torch.nn.L1Loss`` with these settings."""
        return nn.L1Loss(reduction=self.reduction)


def _tensor(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)
