"""Faulty compositions, and what becomes of them when their fixes are followed one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import nn

import counterpoint as cp
from counterpoint.core import Terms
from counterpoint.core.check.fixes.changes import apply_changes, identity_of
from counterpoint.core.remedies import Choose, Drop, Remedy, State, decides
from tests.laws.case import CLASSES
from tests.laws.draft import altered
from tests.laws.mistakes import BY_THE_MODEL, MISTAKES, an_unknown_loss
from tests.laws.settings import registered
from tests.laws.strategy import a_draft, an_algorithm, fill

UNSTATED = ("num_classes", "batch_size", "steps_per_epoch", "max_duration", "task")
LOSSES = (
    nn.HuberLoss(),
    nn.MSELoss(),
    nn.BCEWithLogitsLoss(),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    an_unknown_loss,
)


ANSWERS: dict[str, Any] = {"num_classes": CLASSES, "contract": "off", "inputs": "image", "loss": "cross_entropy"}
"""What a person may state where a fault leaves it to one."""
ONLY_IN_PYTHON = {
    "task-unstated",
    "inputs-unknown",
    "classes-unstated",
    "duration-unknown",
    "loss-unknown",
    "model-inputs",
}
"""Mistakes in what a config does not state, because its data or its model do."""


def faulty(number: int, terms: Terms) -> tuple[list[Any], dict[str, Any]]:
    """Return a list and facts with up to three mistakes, most of which cause faults."""
    dice = Random(number)
    draft = a_draft(dice)
    fill(dice, draft)
    python = terms is Terms.PYTHON
    aims = MISTAKES.keys() - BY_THE_MODEL - (set() if python else ONLY_IN_PYTHON)
    for aim in dice.sample(sorted(aims), dice.choice([1, 1, 2, 3])):
        MISTAKES[aim](dice, draft)
    for _ in range(dice.choice([0, 0, 1, 2])):  # a method that need not fit, a wish that need not hold
        draft.add(an_algorithm(dice, dice.choice(sorted(registered())), draft))
    if python and dice.random() < 0.2:
        draft.facts[dice.choice(UNSTATED)] = None
    if python and dice.random() < 0.2:
        draft.facts |= {"loss": dice.choice(LOSSES), "loss_accepts": dice.choice([None, None, {"index"}, {"dense"}])}
    if dice.random() < 0.2:
        draft.facts["max_duration"] = dice.choice(["3ep", "0.5ep", "7ba"])
    names = [*draft.names(), "nobody"]
    for place, item in enumerate(draft.listed):
        if isinstance(item, cp.Algorithm) and dice.random() < 0.15:
            draft.listed[place] = altered(item, **{dice.choice(["after", "before"]): (dice.choice(names),)})
        elif isinstance(item, cp.Algorithm) and dice.random() < 0.2:
            draft.listed[place] = item.component()
    return draft.listed, draft.facts


def faults_of(listed: Sequence[object], facts: dict[str, Any], terms: Terms) -> tuple[cp.Fault, ...]:
    try:
        cp.compose(listed, terms=terms, **facts)
    except cp.CompositionError as error:
        return error.faults
    return ()


def follow(listed: Sequence[object], facts: dict[str, Any], dice: Random, terms: Terms) -> Counter[str]:
    """Apply fix after fix until the composition is right; return how often which code was met.

    Raises ``AssertionError`` where a fix leaves its fault or brings another, and where nothing leads on.
    """
    met: Counter[str] = Counter()
    faults = faults_of(listed, facts, terms)
    rounds = len(faults)
    while faults:
        for fault in faults:
            assert fault.fix, fault
            assert fault.remedies or decides(fault.ways[0]), fault
            assert "  " not in fault.fix, fault
        met.update(fault.code for fault in faults)
        fault = dice.choice([fault for fault in faults if fault.remedies] or list(faults))
        was, before = listed, faults
        if fault.remedies:
            listed, facts = apply_changes(listed, facts, fault.remedies)
        else:
            met["decided by a person"] += 1
            listed, facts = decided(fault, before, listed, facts, terms)
        after = faults_of(listed, facts, terms)
        brought = unmatched(after, before, fault, was)
        assert not brought, f"{fault}\n{fault.remedies}\nbrought\n" + "\n".join(map(str, brought))
        faults, rounds = after, rounds - 1
    assert rounds >= 0
    return met


def decided(
    fault: cp.Fault, before: Sequence[cp.Fault], listed: Sequence[object], facts: dict[str, Any], terms: Terms
) -> tuple[list[object], dict[str, Any]]:
    """Return what a person may make of a composition whose fault no program can mend: the first answer that leads on.

    Raises ``AssertionError`` where none does.
    """
    answers: list[Remedy] = [State({key: value}) for key, value in ANSWERS.items() if facts.get(key) != value]
    answers += [Drop(name) for name in fault.algorithms]
    for answer in answers:
        try:
            changed = apply_changes(listed, facts, (answer,))
        except LookupError:  # a party that is no method of the list, such as the loss
            continue
        if not unmatched(faults_of(*changed, terms), before, fault, listed):
            return changed
    raise AssertionError(f"no answer leads on\n{fault}")


def unmatched(
    after: Sequence[cp.Fault], before: Sequence[cp.Fault], fixed: cp.Fault, listed: Sequence[object]
) -> list[cp.Fault]:
    """Return the faults after a change that were not there before it, by their codes and their parties.

    Each is one of those before, with no other party of those that were listed: a choice stands for its branches, and
    of the one loss or the one model there is one fault of a kind.
    """
    chosen = {name for remedy in fixed.remedies if isinstance(remedy, Choose) for name in remedy.algorithms}
    known = {identity_of(item) for item in listed}
    rest = list(before)
    rest.remove(fixed)

    def stays(new: cp.Fault, old: cp.Fault) -> bool:
        others = {*new.algorithms} & known - {*old.algorithms}
        others -= chosen if {*old.algorithms} & chosen else set()
        return new.code == old.code and (new.code in {"loss-targets", "model-inputs"} or not others)

    if not (rest and after):
        return list(after)
    matched = maximum_bipartite_matching(csr_array([[stays(new, old) for old in rest] for new in after]), "column")
    return [new for new, place in zip(after, matched, strict=True) if place < 0]
