"""What holds for every list of methods and every batch: mass, orders, and what commuting claims."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from counterpoint import DENSE, UNIT
from counterpoint.algorithms import CutMix, CutOut, LabelSmoothing, MixUp, OneOf
from counterpoint.core import Algorithm, Batch, Rng
from counterpoint.core.check.commutation import commute
from tests.algorithms.batches import SHAPE, bits, dense, plan_for, targets
from tests.algorithms.cases import CASES, EditCase

quickly = settings(max_examples=60, deadline=None, derandomize=True, database=None)

alphas = st.sampled_from([0.0, 1e-6, 0.2, 1.0, 10.0])
coins = st.sampled_from([1.0, 1.0, 0.5, 1e-300])
mixups = st.builds(MixUp, alpha=alphas, p=coins)
cutmixes = st.builds(CutMix, alpha=alphas, per_sample=st.booleans(), p=coins)
mixers = st.one_of(
    mixups,
    cutmixes,
    st.builds(
        OneOf,
        algorithms=st.tuples(mixups, cutmixes),
        weights=st.tuples(st.integers(1, 3), st.integers(1, 3)).map(lambda pair: tuple(map(float, pair))),
        p=coins,
    ),
)
cutouts = st.builds(
    CutOut,
    length=st.floats(0.01, 1),
    num_holes=st.integers(1, 3),
    per_sample=st.booleans(),
    p=coins,
    id=st.just("hole"),
)
same_fill = st.builds(CutOut, length=st.floats(0.01, 1), per_sample=st.booleans(), id=st.just("other_hole"))
smoothings = st.builds(LabelSmoothing, smoothing=st.floats(0, 1), p=coins)
subsets = st.tuples(*(st.none() | method for method in (mixers, cutouts, same_fill, smoothings))).map(
    lambda found: [method for method in found if method is not None]
)


def units(size: int) -> torch.Tensor:
    return torch.eye(size)[:, :, None, None].expand(size, size, *SHAPE[1:]).contiguous()


@pytest.mark.slow
@quickly
@given(
    subsets, st.sampled_from(["multiclass", "segmentation"]), st.integers(1, 9), st.booleans(), st.integers(0, 2**40)
)
def test_the_mass_of_a_row_is_that_of_the_rows_mixed_into_it(
    listed: list[Algorithm[Any]], task: str, size: int, given_dense: bool, seed: int
) -> None:
    target = targets(size, task, dense=given_dense, ignored=True)
    mixing = plan_for([method for method in listed if not isinstance(method, CutOut)], task, seed=seed)
    plan = plan_for(listed, task, seed=seed, contract="always")
    for step in (0, 7):
        weights = mixing(units(size), target, step=step)[0].double().numpy()
        _, edited = plan(units(size), target, step=step)
        assert (dense(edited) >= 0).all()
        mass = dense(target).sum(1)
        wanted = weights.mean((2, 3)) @ mass if mass.ndim == 1 else np.einsum("ijhw,jhw->ihw", weights, mass)
        np.testing.assert_allclose(dense(edited).sum(1), wanted, rtol=0, atol=2e-6)


@pytest.mark.slow
@quickly
@given(subsets, st.sampled_from(["multiclass", "segmentation"]), st.integers(1, 5), st.integers(0, 2**40))
def test_every_order_of_the_list_gives_one_plan_and_the_same_bits(
    listed: list[Algorithm[Any]], task: str, size: int, seed: int
) -> None:
    target, seen = targets(size, task), set()
    for order in itertools.permutations(listed):
        plan = plan_for(order, task, seed=seed, contract="off")
        x, y = plan(units(size), target, step=3)
        seen.add((plan.fingerprint, plan.order, bits(x), bits(y)))
        assert all(pair.outcome == "moved" for pair in plan.pairs)
    assert len(seen) == 1


METHODS: list[Algorithm[Any]] = [
    case.algorithm
    for cases in CASES.values()
    for case in cases
    if isinstance(case, EditCase) and case.algorithm.declared().transforms and "unit" in case.inputs
]


def batch_of(task: str, size: int, seed: int) -> Batch:
    """Return a float64 batch of unit images with dense targets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(size, *SHAPE, generator=generator, dtype=torch.float64)
    shape = (size, 4, *SHAPE[1:]) if task == "segmentation" else (size, 4)
    y = torch.randn(shape, generator=generator, dtype=torch.float64).softmax(1)
    y[: size // 3] = 0
    return Batch(x, y, inputs_kind=UNIT, targets_kind=DENSE, task=task, num_classes=4)


def apart(first: Algorithm[Any], second: Algorithm[Any], task: str, size: int, seed: int) -> tuple[bool, float]:
    """Return whether two methods are said to commute, and by how much their orders differ on a batch."""
    batch = batch_of(task, size, seed)
    drawn = [method.draw(batch.spec, Rng(seed, name)) for method, name in ((first, "one"), (second, "other"))]

    def run(*order: int) -> Batch:
        edited = batch
        for place in order:
            method = (first, second)[place]
            for effect in method.declared().transforms:
                edited = getattr(method, effect.method)(edited, drawn[place])
        return edited

    one, other = run(0, 1), run(1, 0)
    said = all(commute(mine, theirs) for mine in first.declared().transforms for theirs in second.declared().transforms)
    differences = [(one.inputs - other.inputs).abs().max(), (one.targets - other.targets).abs().max()]
    return said, float(max(differences))


@pytest.mark.slow
@settings(quickly, max_examples=15)
@given(st.sampled_from(["multiclass", "segmentation"]), st.integers(2, 6), st.integers(0, 2**40))
def test_what_is_said_to_commute_does_in_float64(task: str, size: int, seed: int) -> None:
    for first, second in itertools.combinations_with_replacement(METHODS, 2):
        said, difference = apart(first, second, task, size, seed)
        assert difference <= 1e-12 or not said, f"{first!r} and {second!r}"


def test_what_is_not_said_to_commute_is_seen_not_to() -> None:
    """The comparison above can fail: these pairs are not said to commute, and their orders differ."""
    for first, second in (
        (CutOut(), MixUp(alpha=1.0)),
        (CutOut(), CutMix()),
        (CutOut(), CutOut(fill=1.0)),
        (MixUp(alpha=1.0), CutMix()),
    ):
        outcomes = [apart(first, second, "segmentation", 6, seed) for seed in range(8)]
        assert not any(said for said, _ in outcomes)
        assert max(difference for _, difference in outcomes) > 1e-3


def test_what_should_commute_is_said_to() -> None:
    for first, second in (
        (LabelSmoothing(), MixUp()),
        (LabelSmoothing(), CutMix()),
        (LabelSmoothing(), CutOut()),
        (CutOut(), CutOut(num_holes=3)),
        (CutOut(per_sample=False), MixUp()),
    ):
        said, difference = apart(first, second, "segmentation", 6, 1)
        assert said == (difference <= 1e-12), f"{first!r} and {second!r}"
