"""EMA: evaluate on an exponential moving average of the weights."""

from __future__ import annotations

from pydantic import Field

from counterpoint.algorithms.averaging import WeightAverage

__all__ = ["EMA", "decay_at"]


def decay_at(update: int, decay: float, *, warmup: bool) -> float:
    """Return the decay of an update, counted from 0: the first copies the weights, later ones grow towards ``decay``.

    With ``warmup`` the decay of update ``t`` is ``min(decay, (1 + t) / (10 + t))``, so that early weights are soon
    forgotten.

    >>> [round(decay_at(t, 0.999, warmup=True), 3) for t in (0, 1, 10, 100, 10**6)]
    [0.0, 0.182, 0.55, 0.918, 0.999]
    """
    if update == 0:
        return 0.0
    return min(decay, (1 + update) / (10 + update)) if warmup else decay


class EMA(WeightAverage, name="ema"):
    """Keep an exponential moving average of the weights, and evaluate and export the model with it.

    After every ``every``-th batch ``average = d * average + (1 - d) * weights`` with ``d = decay``, or where that is
    not given ``d = 0.5 ** (every / half_life)``. A step over several device batches has one update. With ``half_life``,
    its ``d`` is raised to the power of the number of device batches on which EMA acts: a half-life counts device
    batches in every loop. The first update copies the weights. Floating and complex buffers, such as batch norm's
    statistics, are averaged in the same way; integer buffers are copied. The model trains on its own weights.

    >>> EMA(half_life=100).per_update
    0.9930924954370359
    >>> EMA(decay=0.999).per_update
    0.999

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control Optim. 1992,
    https://doi.org/10.1137/0330046
    """

    half_life: float = Field(default=100.0, gt=0, le=1e12, description="batches after which a weight counts half")
    decay: float | None = Field(default=None, ge=0, lt=1, description="decay of each update, instead of half_life")
    warmup: bool = Field(default=True, description="lets the decay of update t be at most (1 + t) / (10 + t)")

    @property
    def per_update(self) -> float:
        """The decay of an update after a step over one device batch, warm-up aside."""
        return 0.5 ** (self.every / self.half_life) if self.decay is None else self.decay

    def decay_of(self, update: int, batches: int) -> float:
        """Return the decay of an update, warm-up included."""
        decay = self.per_update**batches if self.decay is None else self.decay
        return decay_at(update, decay, warmup=self.warmup)
