"""Random declarations that no method has: every list that keeps the pairs it decides gives one order."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

import counterpoint as cp
from counterpoint.core import Facts, Form, compose
from counterpoint.core.declare.kinds import TASKS
from counterpoint.core.remedies import Drop
from tests.laws.tally import Tally

TABLE: list[cp.Declaration] = []
INPUTS = (cp.BYTES, cp.UNIT, cp.NORMALIZED)
TARGETS = (cp.INDEX, cp.DENSE)


class Synthetic(cp.Algorithm[None], name="synthetic"):
    """Declares whatever the table says under its number."""

    number: int

    @cp.transform(inputs=cp.IMAGES, law=cp.Law.FILL)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch

    def declared(self) -> cp.Declaration:
        return TABLE[self.number]


def some_axes(dice: random.Random) -> frozenset[cp.Axis]:
    return frozenset(axis for axis in cp.Axis if dice.random() < 0.3)


def an_edit(dice: random.Random, kinds: tuple[cp.Kind, ...]) -> cp.Edit:
    needs = frozenset(kind for kind in kinds if dice.random() < 0.7) or frozenset({dice.choice(kinds)})
    return cp.Edit(
        needs,
        gives=dice.choice(kinds) if dice.random() < 0.1 else None,
        acts=some_axes(dice),
        varies=some_axes(dice),
        form=dice.choice(list(Form)),
        fills=dice.choice([None, None, None, 0.0, 1.0]),
        resizes=dice.random() < 0.1,
    )


def a_declaration(dice: random.Random) -> cp.Declaration:
    edits = {
        part: an_edit(dice, kinds)
        for part, kinds in ((cp.Field.INPUTS, INPUTS), (cp.Field.TARGETS, TARGETS))
        if dice.random() < 0.6
    }
    (effect,) = Synthetic.declaration.transforms
    reads = frozenset(part for part in (cp.Field.INPUTS, cp.Field.TARGETS) if dice.random() < 0.1)
    given = edits or {cp.Field.INPUTS: an_edit(dice, INPUTS)}
    return cp.Declaration((replace(effect, edits=given, reads=reads, unedited=dice.random() < 0.05),))


def a_list(dice: random.Random) -> list[Synthetic]:
    TABLE[:] = [a_declaration(dice) for _ in range(dice.randint(2, 6))]
    ids = [f"s{number}" for number in range(len(TABLE))]
    wishes = [dice.choice(ids) if dice.random() < 0.05 else None for _ in ids]
    return [
        Synthetic(number=number, id=name, before=() if wish in (None, name) else (wish,))
        for number, (name, wish) in enumerate(zip(ids, wishes, strict=True))
    ]


def planned(listed: list[Synthetic], tally: Tally | None = None) -> cp.Plan | frozenset[tuple[str, frozenset[str]]]:
    """Return the plan, or the faults, as codes with their parties."""
    facts = Facts(TASKS["multiclass"], cp.UNIT, 4, model_inputs=frozenset(INPUTS))
    try:
        return compose(listed, resolve=lambda name: Synthetic, facts=facts)
    except cp.CompositionError as error:
        if tally is not None:
            tally.codes.update({fault.code for fault in error.faults})
        return frozenset((fault.code, frozenset(fault.algorithms)) for fault in error.faults)


@pytest.mark.kind("8")
def test_a_fix_leaves_out_what_is_listed() -> None:
    """A conversion is a step that no list names, so nobody can leave it out."""
    (effect,) = Synthetic.declaration.transforms
    later = cp.Edit(frozenset({cp.DENSE}), gives=cp.INDEX)
    TABLE[:] = [cp.Declaration((replace(effect, edits={cp.Field.TARGETS: later}, unedited=True),))]
    with pytest.raises(cp.CompositionError) as caught:
        compose([Synthetic(number=0)], facts=Facts(TASKS["multiclass"], cp.UNIT, 4), resolve=lambda name: Synthetic)
    (fault,) = [fault for fault in caught.value.faults if fault.code == "cyclic-order"]
    assert fault.remedies == (Drop("synthetic"),)
    assert "leave dense_targets out" not in fault.fix


def hold(dice: random.Random, tally: Tally) -> None:
    """Draw a set of declarations, and hold it to the law in six orders."""
    listed = a_list(dice)
    first = planned(listed, tally)
    if not isinstance(first, cp.Plan):
        tally.refused += 1
        return
    tally.accepted += 1
    place = {algorithm.identity: position for position, algorithm in enumerate(listed)}
    decided = [(pair.first, pair.second) for pair in first.pairs if pair.rule == "as-listed"]
    wanted = [(a, b) if place[a] < place[b] else (b, a) for a, b in decided]
    for some in itertools.islice(itertools.permutations(listed), 1, None, max(1, len(listed) * 7)):
        places = {algorithm.identity: position for position, algorithm in enumerate(some)}
        if any(places[a] > places[b] for a, b in wanted):
            tally.count("2 lists that decide otherwise")
            continue
        other = planned(list(some))
        assert isinstance(other, cp.Plan), (first.order, other)
        assert other.order == first.order
        assert other.fingerprint == first.fingerprint
        tally.count("2 lists")


def many(cases: int) -> Tally:
    tally = Tally()
    for number in range(cases):
        hold(random.Random(number), tally)
    return tally


@pytest.mark.slow
def test_the_order_of_the_list_changes_nothing_by_accident() -> None:
    tally = many(300)
    assert tally.accepted >= 50, str(tally)
    assert tally.compared["2 lists"] >= 50, str(tally)


@pytest.mark.long
def test_the_order_of_the_list_changes_nothing_by_accident_in_very_many() -> None:
    tally = many(20_000)
    print(f"\n{tally}")  # pytest -rP shows it
    assert tally.accepted >= 4_000
    assert tally.compared["2 lists"] >= 4_000
