"""What the checker and the loop need to know of a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from counterpoint.core.kinds import Claim, Kind

__all__ = ["LossSpec"]


@dataclass(frozen=True)
class LossSpec:
    """A loss, with the kinds of target it is right for.

    ``function(outputs, targets)`` is right for every kind in ``accepts``. ``claims`` are the slots that the loss
    owns like any method (``label_smoothing`` claims smoothing). ``ignore_index`` is the class index that marks an
    ignored position. ``denominator(targets)`` is what a mean divides by, so that the loss of a batch is the sum over
    its parts of ``function(part) * denominator(part) / denominator(batch)``; ``None`` where parts simply add up.
    ``each(outputs, targets)`` is the loss of each sample, (N), for methods that compare samples: its mean over the
    positions that count, weighted as the loss weights them; ``None`` if not known. ``classes`` is the number of
    classes or labels that its weights are for, ``None`` without such weights.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    accepts: frozenset[Kind]
    claims: tuple[Claim, ...] = ()
    ignore_index: int = -100
    denominator: Callable[[Tensor], Tensor] | None = None
    each: Callable[[Tensor, Tensor], Tensor] | None = None
    classes: int | None = None
