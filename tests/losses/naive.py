"""References that share nothing with the package: Python loops over single numbers."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor


def dense_rows(targets: Tensor, classes: int, ignore_index: int = -100, dtype: torch.dtype = torch.float64) -> Tensor:
    """Write a 1 at the class of each position that counts; ignored positions keep their zeros."""
    rows = torch.zeros(targets.shape[0], classes, *targets.shape[1:], dtype=dtype)
    for place in product(*map(range, targets.shape)):
        chosen = int(targets[place])
        if chosen != ignore_index:
            rows[(place[0], chosen, *place[1:])] = 1.0
    return rows


def cross_entropy(
    logits: Tensor, targets: Tensor, weight: list[float], smoothing: float, reduction: str
) -> float | list[float]:
    """Follow the formula of the documentation number by number, in Python's floats."""
    classes = logits.shape[1]
    losses, total = [], 0.0
    for place in product(range(logits.shape[0]), *map(range, logits.shape[2:])):
        row = [float(logits[(place[0], c, *place[1:])]) for c in range(classes)]
        y = [float(targets[(place[0], c, *place[1:])]) for c in range(classes)]
        log_sum = math.log(math.fsum(math.exp(value) for value in row))
        mass = math.fsum(y)
        smoothed = [(1 - smoothing) * value + smoothing / classes * mass for value in y]
        losses.append(math.fsum(weight[c] * smoothed[c] * (log_sum - row[c]) for c in range(classes)))
        total += math.fsum(weight[c] * y[c] for c in range(classes))
    if reduction == "none":
        return losses
    return math.fsum(losses) if reduction == "sum" else math.fsum(losses) / total
