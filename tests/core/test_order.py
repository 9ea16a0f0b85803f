"""The order of steps: needs, wishes, conventions, commuting, and what is left to the list."""

from __future__ import annotations

from itertools import permutations

import pytest

import counterpoint as cp
from tests.core.methods import Blend, Hole, Normal, Peek, Recolor, Scale, Shrink, check, codes


def outcomes(plan: cp.Plan) -> dict[tuple[str, str], tuple[str, str]]:
    return {(pair.first, pair.second): (pair.outcome, pair.rule) for pair in plan.pairs}


def test_conventions_order_what_does_not_commute_whatever_the_list() -> None:
    listed = [Blend(), Hole(), Recolor(), Shrink()]
    orders = {check(list(some)).order for some in permutations(listed)}
    assert orders == {("dense_targets", "shrink", "recolor", "hole", "blend")}


def test_a_moved_pair_names_its_rule() -> None:
    moved = outcomes(check([Blend(), Recolor(), Hole(), Shrink()]))
    assert moved["recolor", "blend"] == ("moved", "single-before-across")
    assert moved["shrink", "recolor"][0] == "moved"
    assert ("recolor", "hole") not in moved


def test_filling_comes_last_of_the_single_samples() -> None:
    plan = check([Hole(value=3.0), Recolor()])
    assert plan.order == ("recolor", "hole")
    assert outcomes(plan) == {("recolor", "hole"): ("moved", "filling-last")}


def test_pairs_that_neither_commute_nor_are_ordered_follow_the_list() -> None:
    first, second = Scale(), Recolor()
    assert check([first, second]).order == ("scale", "recolor")
    assert check([second, first]).order == ("recolor", "scale")
    assert outcomes(check([second, first])) == {("recolor", "scale"): ("as listed", "as-listed")}


def test_strict_order_refuses_what_only_the_list_decides() -> None:
    assert codes([Scale(), Recolor()], strict_order=True) == ["ambiguous-order"]
    assert codes([Scale(before="recolor"), Recolor()], strict_order=True) == []
    assert codes([Hole(), Recolor()], strict_order=True) == []


def test_equal_fills_commute_and_other_fills_do_not() -> None:
    one, other = Hole(id="one"), Hole(id="other")
    assert check([other, one]).order == check([one, other]).order
    dark, light = Hole(id="dark"), Hole(id="light", value=1.0)
    assert check([light, dark]).order == ("light", "dark")
    assert check([dark, light]).order == ("dark", "light")


def test_a_wish_beats_a_convention() -> None:
    plan = check([Blend(), Hole(after="blend")])
    assert plan.order == ("dense_targets", "blend", "hole")
    assert check([Hole(), Blend(before="hole")]).order == plan.order


def test_a_wish_orders_what_commutes() -> None:
    assert check([Scale(), Blend(before="scale")]).order == ("dense_targets", "blend", "scale")
    assert check([Scale(before="blend"), Blend()]).order == ("dense_targets", "scale", "blend")


def test_a_wish_against_needs_is_a_fault() -> None:
    with pytest.raises(cp.CompositionError) as caught:
        check([Normal(after="scale"), Scale()], inputs=cp.BYTES)
    assert [fault.code for fault in caught.value.faults] == ["wish-impossible"]
    assert "normal" in caught.value.faults[0].message


def test_wishes_that_contradict_each_other_are_a_fault() -> None:
    assert codes([Scale(before="recolor"), Recolor(before="scale")]) == ["wish-impossible"]
    ring = [Scale(before="recolor"), Recolor(before="hole"), Hole(before="scale")]
    assert codes(ring) == ["wish-impossible"]


def test_wishes_name_methods_of_the_list() -> None:
    assert codes([Scale(before="nobody")]) == ["unknown-reference"]
    assert codes([Scale(after="scale")]) == ["wish-impossible"]


def test_needs_and_gives_come_before_everything() -> None:
    for listed in permutations([Scale(), Normal(), Blend()]):
        assert check(list(listed), inputs=cp.BYTES).order[:3] == ("dense_targets", "normal", "scale")


def test_who_cannot_take_what_is_given_comes_before() -> None:
    class RawHole(cp.Algorithm[None], name="raw_hole"):
        @cp.transform(inputs=cp.BYTES, law=cp.Law.FILL)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    for listed in permutations([RawHole(), Normal()]):
        assert check(list(listed), inputs=cp.BYTES).order == ("raw_hole", "normal")


def test_two_who_need_what_the_other_gives_are_a_cycle() -> None:
    class Forth(cp.Algorithm[None], name="forth"):
        @cp.transform(inputs=cp.Edit(frozenset({cp.UNIT}), gives=cp.NORMALIZED))
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    class Back(cp.Algorithm[None], name="back"):
        @cp.transform(inputs=cp.Edit(frozenset({cp.NORMALIZED}), gives=cp.UNIT))
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    found = codes([Forth(), Back()], inputs=cp.FEATURES)
    assert "cyclic-order" in found
    assert "needs-unmet" in found


def test_a_reader_of_the_unedited_batch_comes_before_every_edit_but_conversions() -> None:
    for listed in permutations([Peek(), Blend(), Hole()]):
        order = check(list(listed)).order
        assert order[:2] == ("dense_targets", "peek")
    # No convention would put it before what changes the size.
    assert check([Shrink(), Peek()]).order == ("dense_targets", "peek", "shrink")


def test_schedules_that_never_meet_leave_nothing_to_order() -> None:
    early, late = Scale(end="5ba"), Recolor(start="5ba")
    assert check([early, late]).fingerprint == check([late, early]).fingerprint
    assert outcomes(check([Scale(end="6ba"), late])) == {("scale", "recolor"): ("as listed", "as-listed")}


def test_a_listed_pair_that_other_rules_overrule_is_shown() -> None:
    plan = check([Recolor(), Scale(before="hole"), Hole(before="recolor")])
    assert plan.order == ("scale", "hole", "recolor")
    assert outcomes(plan)["scale", "recolor"] == ("overruled", "as-listed")


def test_the_list_decides_nothing_else() -> None:
    listed = [Recolor(), Scale(), Blend(), Hole(), Shrink()]
    plans: dict[bool, set[tuple[str, ...]]] = {True: set(), False: set()}
    for some in permutations(listed):
        recolor_first = [method.name for method in some].index("recolor") < [m.name for m in some].index("scale")
        plans[recolor_first].add(check(list(some)).order)
    assert {first: len(orders) for first, orders in plans.items()} == {True: 1, False: 1}


def test_an_empty_list_is_a_plan_that_does_nothing() -> None:
    plan = check([])
    assert plan.order == ()


def test_hooks_that_touch_what_the_other_writes_follow_the_list() -> None:
    class Writes(cp.Algorithm[None], name="writes"):
        @cp.before(cp.Event.UPDATE, writes="gradients")
        def edit(self, state: object, scope: cp.Scope) -> None: ...

    class Reads(cp.Algorithm[None], name="reads"):
        @cp.before(cp.Event.UPDATE, reads="gradients")
        def look(self, state: object, scope: cp.Scope) -> None: ...

    writes, reads, other = Writes(), Reads(), Reads(id="other")
    assert check([writes, reads]).order == ("writes", "reads")
    assert check([reads, writes]).order == ("reads", "writes")
    assert outcomes(check([reads, writes])) == {("reads", "writes"): ("as listed", "as-listed")}
    assert check([reads, other]).fingerprint == check([other, reads]).fingerprint
    assert codes([reads, writes], strict_order=True) == ["ambiguous-order"]


def test_hooks_of_batches_that_never_meet_leave_nothing_to_order() -> None:
    class Step(cp.Algorithm[None], name="step"):
        @cp.before(cp.Event.UPDATE, writes="gradients")
        def edit(self, state: object, scope: cp.Scope) -> None: ...

    class Outside(cp.Algorithm[None], name="outside"):
        @cp.after(cp.Event.EPOCH, writes="gradients")
        def edit(self, state: object, scope: cp.Scope) -> None: ...

        @cp.before(cp.Event.UPDATE, reads="parameters")
        def look(self, state: object, scope: cp.Scope) -> None: ...

    soon, late = Step(end="3ba"), Step(id="late", start="3ba")
    assert check([soon, late], strict_order=True).fingerprint == check([late, soon], strict_order=True).fingerprint
    assert codes([soon, Step(id="late", start="2ba")], strict_order=True) == ["ambiguous-order"]
    apart = [Outside(end="3ba"), Outside(id="late", start="3ba")]  # at the end of an epoch, both act
    assert codes(apart, strict_order=True) == ["ambiguous-order"]
