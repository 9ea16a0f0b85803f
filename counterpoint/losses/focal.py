"""Focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002), for classes and for independent labels."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.declare.kinds import DENSE, INDEX, MULTI_HOT
from counterpoint.core.declare.targets import dense_targets
from counterpoint.core.tensors.checks import check_tensor
from counterpoint.losses.checks import (
    Reduction,
    check_weight,
    checked_number,
    checked_reduction,
    common_dtype,
    elementwise,
    require_float_outputs,
)
from counterpoint.losses.classes import along_classes, reduced, require_dense
from counterpoint.losses.known import POSITIONS, KnownLoss
from counterpoint.losses.outputs import LOGITS
from counterpoint.losses.settings import IgnoreIndex, ReducedLossSettings, Weights

__all__ = ["KNOWN", "BinaryFocal", "BinaryFocalLoss", "Focal", "FocalLoss", "binary_focal_loss", "focal_loss"]

NAME = "focal loss"


def focal_loss(
    outputs: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the focal loss of a softmax over classes, ``sum(w * y * (1 - p) ** gamma * -log p)`` for a position.

    It is linear in the targets, as cross-entropy is, and equal to it where ``gamma`` is 0: the mean divides by
    ``sum(w * y)``, the weights of the positions that count. This is the paper's loss with a softmax for its sigmoid;
    ``binary_focal_loss`` has the sigmoid. Paper: https://arxiv.org/abs/1708.02002

    Args:
        outputs: logits, (N, C) or (N, C, d1, ...), any float dtype; computed in float32 at least.
        targets: class probabilities of the same shape, float32 or float64, or class indices, (N) or (N, d1, ...).
        gamma: how much less the likely classes count, 0 or above.
        weight: a factor for each class, (C): the paper's alpha.
        ignore_index: the class index whose positions do not count; dense targets have all-zero rows instead.
        reduction: ``"none"`` (N, d1, ...), ``"sum"`` or ``"mean"``.

    Raises:
        DataError: the shapes differ, are too short, or do not fit ``weight``; an index is no class.
        ConfigError: ``gamma`` or ``reduction`` is none of the above.

    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> focal_loss(logits, torch.eye(2), gamma=0.0), focal_loss(logits, torch.eye(2))
    (tensor(0.4100), tensor(0.0875))
    """
    gamma = _checked_gamma(gamma)
    require_float_outputs(outputs, NAME)
    check_tensor("targets", targets)
    dtype = common_dtype(outputs, targets)
    if not targets.is_floating_point() and outputs.ndim > 1:
        targets = dense_targets(targets, outputs.shape[1], ignore_index=ignore_index, dtype=dtype)
    require_dense(outputs, targets, weight, NAME)
    log_p = torch.log_softmax(outputs, dim=1, dtype=dtype)
    dense = targets.to(dtype)
    weighted = dense if weight is None else dense * along_classes(weight, dense)
    absent = dense == 0
    # Where p rounds to 1, a power below 1 has an infinite slope, which times the loss of 0 would be NaN.
    unlikely = (-torch.expm1(log_p)).clamp_min(torch.finfo(dtype).tiny)
    # A target of 0 times a log-probability of minus infinity must be 0, not NaN.
    focal = unlikely**gamma * log_p.masked_fill(absent & (log_p == -torch.inf), 0)
    losses = -(weighted * focal).sum(1)
    return reduced(losses.masked_fill(absent.all(1), 0), weighted, reduction)


def binary_focal_loss(
    outputs: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the paper's focal loss, of a sigmoid for each label.

    With ``p = sigmoid(outputs)`` an element's loss is ``alpha * y * (1 - p) ** gamma * -log p`` plus
    ``(1 - alpha) * (1 - y) * p ** gamma * -log(1 - p)``. It is linear in the targets; the mean is over the elements.
    Paper: https://arxiv.org/abs/1708.02002

    Args:
        outputs: logits, (N, C) or (N, ...), any float dtype; computed in float32 at least.
        targets: labels between 0 and 1 of the same shape, float32 or float64.
        gamma: how much less the likely labels count, 0 or above.
        alpha: factor of the positive part, 0 to 1; that of the negative part is the rest. ``None``: both have 1.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.

    Raises:
        DataError: the shapes differ, or a dtype is not one of the above.
        ConfigError: ``gamma``, ``alpha`` or ``reduction`` is none of the above.

    >>> binary_focal_loss(torch.zeros(2, 3), torch.ones(2, 3), gamma=0.0), binary_focal_loss(
    ...     torch.zeros(2, 3), torch.ones(2, 3), alpha=0.25)
    (tensor(0.6931), tensor(0.0433))
    """
    gamma, alpha = _checked_gamma(gamma), _checked_alpha(alpha)
    logits, labels = elementwise(outputs, targets, NAME, "labels between 0 and 1")
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    losses = -positive * labels * (gamma * log_q).exp() * log_p
    losses = losses - negative * (1 - labels) * (gamma * log_p).exp() * log_q
    match checked_reduction(reduction):
        case "none":
            return losses
        case "sum":
            return losses.sum()
        case "mean":
            return losses.mean()


class FocalLoss(nn.Module):
    """Focal loss of a softmax over classes: ``focal_loss`` with these settings, as a module.

    ``weight`` is a buffer, (C), so it moves with the module. Raises ``ConfigError`` where a setting is out of range.

    >>> FocalLoss(gamma=0.0)(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(0.6931)
    """

    weight: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.gamma = _checked_gamma(gamma)
        check_weight(weight)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = checked_reduction(reduction)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the focal loss of logits (N, C, ...) on class probabilities or class indices."""
        return focal_loss(
            outputs,
            targets,
            gamma=self.gamma,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


class BinaryFocalLoss(nn.Module):
    """Focal loss of a sigmoid for each label: ``binary_focal_loss`` with these settings, as a module.

    Raises ``ConfigError`` where a setting is out of range.

    >>> BinaryFocalLoss(gamma=0.0)(torch.zeros(2, 2), torch.eye(2))
    tensor(0.6931)
    """

    def __init__(self, gamma: float = 2.0, *, alpha: float | None = None, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.gamma = _checked_gamma(gamma)
        self.alpha = _checked_alpha(alpha)
        self.reduction = checked_reduction(reduction)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the focal loss of logits on labels between 0 and 1 of the same shape."""
        return binary_focal_loss(outputs, targets, gamma=self.gamma, alpha=self.alpha, reduction=self.reduction)


def _checked_gamma(gamma: float) -> float:
    return checked_number("gamma", gamma, "it is 0 or above")


def _checked_alpha(alpha: float | None) -> float | None:
    return None if alpha is None else checked_number("alpha", alpha, "it is a share between 0 and 1, or None", high=1)


KNOWN = (
    KnownLoss(
        FocalLoss,
        focal_loss,
        accepts=frozenset({INDEX, DENSE}),
        outputs=LOGITS,
        averages=POSITIONS,
        settings=("gamma", "ignore_index"),
        weights=("weight",),
        functions=(focal_loss,),
        formula="`w · y · (1 − p)^γ · (−log p)`",
        mixed="yes; `mean` is Σ of that over Σ `w · y`",
        refused="dense targets narrower than float32; `gamma` below 0",
    ),
    KnownLoss(
        BinaryFocalLoss,
        binary_focal_loss,
        accepts=frozenset({MULTI_HOT}),
        outputs=LOGITS,
        settings=("gamma", "alpha"),
        functions=(binary_focal_loss,),
        formula="`α · y · σ(−x)^γ · (−log σ(x)) + (1 − α) · (1 − y) · σ(x)^γ · (−log σ(−x))`",
        mixed="yes; `mean` is over the elements",
        refused="`gamma` below 0, `alpha` outside 0 to 1",
    ),
)


class Focal(ReducedLossSettings):
    """Focal loss of a softmax, from logits, on class indices or class probabilities.

    >>> Focal(gamma=1.0).build()
    FocalLoss()
    """

    module = FocalLoss
    gamma: float = Field(
        default=2.0, ge=0, le=1e3, description="how much less the likely classes count; 0 is cross-entropy"
    )
    weight: Weights = None
    ignore_index: IgnoreIndex = -100


class BinaryFocal(ReducedLossSettings):
    """Focal loss of a sigmoid for each label, from logits, on multi-hot targets.

    >>> BinaryFocal(alpha=0.25).build()
    BinaryFocalLoss()
    """

    module = BinaryFocalLoss
    gamma: float = Field(
        default=2.0, ge=0, le=1e3, description="how much less the likely labels count; 0: all count the same"
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="factor of the positive part; that of the negative part is the rest; none: both have 1",
    )
