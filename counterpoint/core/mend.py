"""Applying the remedies of a fault to what was composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from counterpoint.core.algorithm import Algorithm
from counterpoint.core.remedy import Choose, Drop, Remedy, State

__all__ = ["mend"]


def mend(
    algorithms: Sequence[Algorithm[Any]], facts: Mapping[str, Any], remedies: Sequence[Remedy]
) -> tuple[list[object], dict[str, Any]]:
    """Apply remedies to a list of algorithms and to the facts that were stated to ``compose``; both are given anew.

    Raises ``LookupError`` where a remedy names nobody in the list.

    >>> from counterpoint.algorithms import CutMix, MixUp
    >>> from counterpoint.core.remedy import Choose
    >>> mend([MixUp(), CutMix()], {}, [Choose(("mixup", "cutmix"), "one_of")])[0]
    [{'name': 'one_of', 'algorithms': [{'name': 'mixup'}, {'name': 'cutmix'}]}]
    """
    listed: list[Algorithm[Any]] = list(algorithms)
    chosen: list[object] = []
    stated = dict(facts)
    for remedy in remedies:
        if isinstance(remedy, State):
            stated |= remedy.facts
        elif isinstance(remedy, Choose):
            branches = [listed.pop(_last(listed, name)) for name in remedy.algorithms]
            chosen.append({"name": remedy.choice, "algorithms": [branch.component() for branch in branches]})
        elif isinstance(remedy, Drop):
            del listed[_last(listed, remedy.algorithm)]
        else:
            place = _last(listed, remedy.algorithm)
            settings = dict(listed[place]) | dict(remedy.settings)
            listed[place] = type(listed[place]).model_validate(settings)
    return [*listed, *chosen], stated


def _last(listed: Sequence[Algorithm[Any]], identity: str) -> int:
    places = [place for place, algorithm in enumerate(listed) if algorithm.identity == identity]
    if not places:
        raise LookupError(f"no method of the list goes by the name {identity!r}")
    return places[-1]
