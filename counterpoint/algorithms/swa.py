"""SWA: evaluate on the equal average of the weights over the last part of the run."""

from __future__ import annotations

from pydantic import Field

from counterpoint.algorithms.averaging import WeightAverage
from counterpoint.core import Duration

__all__ = ["SWA", "equal_decay"]


def equal_decay(update: int) -> float:
    """Return the decay of an update, counted from 0, that gives all updates so far the same weight: ``t / (t + 1)``.

    >>> [equal_decay(t) for t in (0, 1, 3)]
    [0.0, 0.5, 0.75]
    """
    return update / (update + 1)


class SWA(WeightAverage, name="swa"):
    """Average the weights from ``start`` on with equal weight, and evaluate and export the model with the average.

    After batch ``start`` and each ``every``-th one from there, the ``t``-th update, counted from 0, makes ``average =
    (t * average + weights) / (t + 1)``. ``start`` is three quarters of the run unless it is given; a share of the run
    needs its length, so compose with ``max_duration``, or give ``start`` in batches. Before ``start`` the model's own
    weights are evaluated. Floating and complex buffers, such as batch norm's statistics, are averaged in the same way;
    integer buffers are copied. The model trains on its own weights.

    >>> str(SWA().start), str(SWA(start="500ba").start)
    ('0.75dur', '500ba')

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, UAI 2018,
    https://arxiv.org/abs/1803.05407
    """

    start: Duration = Field(
        default=Duration(0.75, "dur"),
        description="first batch after which weights are averaged",
        json_schema_extra={"default": "0.75dur"},
    )

    def decay_of(self, update: int, batches: int) -> float:
        """Return the decay that gives all updates so far the same weight."""
        return equal_decay(update)
