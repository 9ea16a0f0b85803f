"""Ranks, seeds, steps and methods draw apart, unless a method is declared to draw alike on every rank."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint import Rng
from counterpoint.core.declare.kinds import INPUT_KINDS
from counterpoint.core.run.batch.calls import map_draws
from tests.algorithms.batches import bits, images, targets
from tests.algorithms.cases import CASES, EditCase

pytestmark = pytest.mark.kind("30")

SPEC = cp.BatchSpec(6, (3, 5, 7), 4)


def plan(*methods: Any, seed: int = 17, inputs: str = "unit") -> cp.Plan:
    return cp.compose([*methods], task="multiclass", num_classes=4, seed=seed, inputs=inputs, model_inputs=INPUT_KINDS)


def numbers(drawn: Any) -> list[bytes]:
    found: list[bytes] = []
    map_draws(lambda tensor: found.append(bits(tensor)), drawn)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mixup", "cutmix", "cutout", "trivial_augment"])
def test_draws_of_ranks_steps_and_seeds_differ_pairwise(name: str) -> None:
    keys = [(seed, step, rank) for seed in (17, 18) for step in (0, 1, 2) for rank in (0, 1, 2)]
    drawn = {
        (seed, step, rank): numbers(plan(name, seed=seed).draws(step, SPEC, rank=rank)[name])
        for seed, step, rank in keys
    }
    assert all(drawn[one] != drawn[other] for one, other in combinations(keys, 2))


@pytest.mark.parametrize("name", ["mixup", "cutmix", "cutout"])
def test_a_call_and_an_engine_edit_by_the_rank_that_they_are_given(name: str) -> None:
    composed, x, y = plan(name), images(6, kind="unit"), targets(6)
    by_rank = [composed(x, y, step=3, rank=rank) for rank in range(3)]
    assert all(not torch.equal(one[0], other[0]) for one, other in combinations(by_rank, 2))
    for rank, wanted in enumerate(by_rank):
        engine = cp.Engine(composed, model=nn.Identity(), rank=rank)
        engine.batches = 3
        with engine.batch(x, y) as batch:
            assert torch.equal(batch.inputs, wanted[0])


def test_the_rank_is_that_of_the_process_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    composed, x, y = plan("mixup"), images(6, kind="unit"), targets(6)
    wanted = [composed(x, y, step=3, rank=rank)[0] for rank in range(3)]
    assert torch.equal(composed(x, y, step=3, repeat=True)[0], wanted[0])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    assert torch.equal(composed(x, y, step=3, repeat=True)[0], wanted[2])
    engine = cp.Engine(composed, model=nn.Identity())
    assert engine.rank == 2


class Alike(cp.Algorithm[Tensor], name="alike", shared=True):
    """Draws one number, the same on every rank."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.uniform()

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: Tensor) -> cp.Batch:
        return batch.with_inputs(batch.inputs * draws.to(batch.inputs.dtype))


def test_what_is_declared_shared_is_alike_on_ranks_and_apart_on_steps() -> None:
    composed = plan(Alike())
    drawn = [[composed.draws(step, SPEC, rank=rank)["alike"].item() for rank in range(3)] for step in range(4)]
    assert all(len(set(of_step)) == 1 for of_step in drawn)
    assert len({of_step[0] for of_step in drawn}) == 4


def test_coins_and_choices_differ_by_rank_and_are_no_copy_of_the_draws() -> None:
    composed = plan({"name": "one_of", "algorithms": ["mixup", "cutmix"]}, {"name": "cutout", "p": 0.5})
    acting = [[tuple(sorted(composed.draws(step, SPEC, rank=rank))) for step in range(40)] for rank in range(3)]
    assert all(one != other for one, other in combinations(acting, 2))
    found = [composed.draws(step, SPEC) for step in range(200)]
    share = sum("cutout" in drawn for drawn in found) / len(found)
    assert 0.4 < share < 0.6
    chosen = sum(drawn["one_of"].endswith("mixup") for drawn in found) / len(found)
    assert 0.4 < chosen < 0.6


def test_two_of_one_method_draw_apart_and_keep_their_draws_when_others_come_or_go() -> None:
    two = plan({"name": "cutout", "id": "one"}, {"name": "cutout", "id": "other"}).draws(5, SPEC)
    assert not torch.equal(two["one"], two["other"])
    assert torch.equal(plan("mixup", {"name": "cutout", "id": "one"}).draws(5, SPEC)["one"], two["one"])


def test_keys_are_written_apart() -> None:
    """No two keys run into one: seed 1 of step 12 is not seed 11 of step 2."""
    keys = [(1, "a", 12, 3), (11, "a", 2, 3), (1, "a1", 2, 3), (1, "a", 1, 23), (1, "a", 12, None), (1, "b", 12, 3)]
    drawn = [Rng(*key).uniform(size=(4,)).tolist() for key in keys]
    assert all(one != other for one, other in combinations(drawn, 2))
    # numpy's own Philox, keyed by the digest that the module documents
    key = np.frombuffer(hashlib.blake2b(b"1/a/12/3", digest_size=16).digest(), dtype="<u8")
    wanted = np.random.Generator(np.random.Philox(key=key)).uniform(0.0, 1.0, (4,))
    assert drawn[0] == wanted.tolist()


@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if isinstance(cases[0], EditCase)])
def test_draws_that_are_listed_are_those_of_the_batch_on_every_rank(name: str) -> None:
    case = CASES[name][0]
    composed = plan(case.algorithm, inputs=case.inputs[0])
    for step, rank in ((0, 0), (4, 1), (4, 2)):
        engine = cp.Engine(composed, model=nn.Identity(), rank=rank)
        engine.batches = step
        with engine.batch(images(6, kind=case.inputs[0]), targets(6)):
            found = {key: value for key, value in engine.draws().items() if value is not None}
        listed = composed.draws(step, SPEC, rank=rank)
        assert found.keys() == listed.keys()
        assert all(numbers(found[key]) == numbers(listed[key]) for key in found)
