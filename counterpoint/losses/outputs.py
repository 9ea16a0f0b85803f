"""The model outputs that the known losses accept, and checks for other outputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from counterpoint.core.declare.loss import OutputKind

__all__ = ["LOGITS", "LOG_PROBABILITIES", "PROBABILITIES"]

_ERROR = 1e-3
"""How far the sum of the probabilities of a row may be from 1, in float32."""


def _wrong_log_probabilities(outputs: Tensor) -> str:
    """Look along the class axis, axis 1, for rows whose exponentials do not add up to 1.

    Rows with a NaN or plus infinity, and rows of minus infinity alone, are left to the loss, as torch leaves them.
    """
    if outputs.ndim < 2 or outputs.numel() == 0:
        return ""
    sums = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).logsumexp(1)
    # Rounding moves a log-probability by a share of its value; with C equal classes each is -log(C).
    error = _ERROR + torch.finfo(outputs.dtype).eps * (1 + math.log(outputs.shape[1]))
    wrong = sums[sums.isfinite() & (sums.abs() > error)]
    return f"the exponentials of a row add up to {wrong[0].exp().item():.3g}, not to 1" if len(wrong) else ""


def _wrong_probabilities(outputs: Tensor) -> str:
    """Look for values outside 0 to 1; NaN is left to the loss."""
    wrong = outputs[(outputs < 0) | (outputs > 1)]
    return f"one is {wrong[0].item():.3g}, outside 0 to 1" if len(wrong) else ""


LOGITS = OutputKind("logits", class_axis=True)
"""Real numbers, the input of a softmax or a sigmoid: no value is wrong."""

LOG_PROBABILITIES = OutputKind(
    "log-probabilities",
    _wrong_log_probabilities,
    "use cross-entropy (`loss: cross_entropy` in a config), which takes logits, or end the model with log_softmax",
    class_axis=True,
)
"""Logarithms of class probabilities, the class axis second, as log_softmax gives them."""

PROBABILITIES = OutputKind(
    "probabilities",
    _wrong_probabilities,
    "use binary cross-entropy with logits (`loss: bce` in a config), or end the model with a sigmoid",
    class_axis=True,
)
"""Numbers between 0 and 1, one for each label, as a sigmoid gives them."""
