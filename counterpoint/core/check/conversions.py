"""Methods that the checker inserts where the kind of a field must change: class indices to dense targets, and on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.kinds import DENSE, INDEX, MULTI_HOT, Kind, Task
from counterpoint.core.declare.targets import DenseTargets, MultiHotTargets

__all__ = ["CONVERSIONS", "Conversion", "route"]


class Conversion(NamedTuple):
    """A change of kind that loses nothing, and the method that makes it.

    A ``final`` one is made for the loss alone, behind every other step, and leaves no position ignored. It needs one
    target for each sample, not one for each position.
    """

    method: type[Algorithm[None]]
    source: Kind
    target: Kind
    final: bool = False

    def build(self, ignore_index: int) -> Algorithm[None]:
        """Return the method for targets in which this class index marks an ignored position."""
        return self.method() if self.final else self.method.model_validate({"ignore_index": ignore_index})


CONVERSIONS = (
    Conversion(DenseTargets, INDEX, DENSE),
    Conversion(MultiHotTargets, DENSE, MULTI_HOT, final=True),
)


def route(
    task: Task, needs: Sequence[Set[Kind]], gives: Set[Kind], accepts: Set[Kind], start: Kind
) -> Iterator[Conversion]:
    """Yield the conversions of a field, in running order, that lead from its first kind to those that are needed.

    ``needs`` are the kinds that each edit takes, ``gives`` those that edits give; ``accepts`` is what the loss takes of
    the field, empty for any.
    """
    at, wanted = start, set() if gives & accepts else set(accepts)
    usable = [conversion for conversion in CONVERSIONS if not (conversion.final and task.positions)]
    for conversion in usable:
        if conversion.source != at:
            continue
        further = {other.target for other in usable if other.source == conversion.target}
        by_loss = bool(wanted) and at not in wanted and bool(wanted & {conversion.target, *further})
        by_edit = any(at not in kinds and conversion.target in kinds for kinds in needs) and not conversion.final
        if by_edit or (by_loss and conversion.target not in gives):
            yield conversion
        if by_edit or by_loss:
            at = conversion.target
