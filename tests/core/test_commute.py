"""The theorem on commuting edits, held against maps of every form on small tensors in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import counterpoint as cp
from counterpoint import UNIT, Axis
from counterpoint.core import Edit, Form
from counterpoint.core.check.commutation import commute, edits_commute
from counterpoint.core.declare.effects import TransformEffect

AXES = {Axis.SAMPLE: 0, Axis.CHANNEL: 1, Axis.POSITION: 2}
MAPS: dict[Form, Callable[[Tensor, int], Tensor]] = {
    Form.SELECT: lambda x, axis: x.roll(1, axis),
    Form.AVERAGE: lambda x, axis: 0.25 * x + 0.75 * x.roll(1, axis),
    Form.LINEAR: lambda x, axis: 2 * x - 0.5 * x.roll(1, axis),
    Form.AFFINE: lambda x, axis: 2 * x - 0.5 * x.roll(1, axis) + 1 + axis,
    Form.NONLINEAR: lambda x, axis: (x + x.roll(1, axis)).square(),
}
"""A map of each form, and of no smaller one, that mixes over one axis and is the same along the others."""


def edit(form: Form, acts: Axis, *varies: Axis) -> Edit:
    return Edit(frozenset({UNIT}), acts=frozenset({acts}), varies=frozenset(varies), form=form)


def values() -> Tensor:
    return torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize(("one", "other"), list(itertools.product(Form, Form)))
def test_edits_of_different_axes_commute_if_their_forms_do(one: Form, other: Form) -> None:
    first, second = MAPS[one], MAPS[other]
    either_way = torch.allclose(second(first(values(), 0), 1), first(second(values(), 1), 0), rtol=0, atol=1e-12)
    assert edits_commute(edit(one, Axis.SAMPLE), edit(other, Axis.CHANNEL)) is either_way


@pytest.mark.parametrize(("acts", "differs"), list(itertools.permutations(Axis, 2)))
def test_an_edit_that_differs_along_an_axis_does_not_commute_with_one_that_mixes_over_it(
    acts: Axis, differs: Axis
) -> None:
    x = values()
    shape = [1, 1, 1]
    shape[AXES[acts]] = x.shape[AXES[acts]]
    places = torch.arange(1.0, 1.0 + x.shape[AXES[acts]], dtype=torch.float64).view(shape)

    def mixing(x: Tensor) -> Tensor:
        return MAPS[Form.AVERAGE](x, AXES[acts])

    def differing(x: Tensor) -> Tensor:
        return places * x + (1 - places) * x.roll(1, AXES[differs])

    assert not torch.allclose(mixing(differing(x)), differing(mixing(x)))
    first, second = edit(Form.AVERAGE, acts), edit(Form.LINEAR, differs, acts)
    assert not edits_commute(first, second)
    assert not edits_commute(second, first)


def test_laws_say_what_they_are_named_for() -> None:
    """MixUp and CutMix mix over samples, and only what differs from sample to sample must come before them."""
    mixing = cp.Law.CONVEX.edit(cp.Field.INPUTS, frozenset({UNIT}))
    assert edits_commute(mixing, cp.Law.RESCALE.edit(cp.Field.INPUTS, frozenset({UNIT})))
    assert not edits_commute(mixing, cp.Law.RECOLOR.edit(cp.Field.INPUTS, frozenset({UNIT})))
    assert not edits_commute(mixing, cp.Law.FILL.edit(cp.Field.INPUTS, frozenset({UNIT})))


def transform(*, reads: tuple[cp.Field, ...] = (), **edits: Edit) -> TransformEffect:
    return TransformEffect("apply", {cp.Field(part): edit for part, edit in edits.items()}, reads=frozenset(reads))


@pytest.mark.kind("30")
def test_a_read_does_not_commute_with_an_edit_of_the_field_read() -> None:
    """A method that looks at the inputs to edit the targets sees other inputs behind an edit of them."""
    looks = transform(reads=(cp.Field.INPUTS,), targets=edit(Form.SELECT, Axis.SAMPLE))
    for form in Form:
        edits = transform(inputs=edit(form, Axis.CHANNEL))
        assert not torch.equal(values(), MAPS[form](values(), 1))
        assert commute(looks, edits) is commute(edits, looks) is False
    other = transform(targets=edit(Form.SELECT, Axis.CHANNEL))
    assert commute(looks, other)
    assert commute(transform(inputs=edit(Form.SELECT, Axis.SAMPLE)), transform(inputs=edit(Form.SELECT, Axis.CHANNEL)))


@pytest.mark.kind("30")
@pytest.mark.parametrize("acts", [frozenset(), frozenset({Axis.POSITION})])
def test_equal_fills_commute_where_neither_moves_positions(acts: frozenset[Axis]) -> None:
    def fills(constant: float, acts: frozenset[Axis] = frozenset()) -> Edit:
        return Edit(frozenset({UNIT}), acts=acts, varies=frozenset({Axis.POSITION}), form=Form.AFFINE, fills=constant)

    assert edits_commute(fills(0.5), fills(0.5, acts)) is edits_commute(fills(0.5, acts), fills(0.5)) is (not acts)
    assert not edits_commute(fills(0.5), fills(0.25, acts))
