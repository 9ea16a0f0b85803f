"""Draws depend on their key alone: golden values, independence of everything else, no global generator."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, CutMix, CutOut, LabelSmoothing, MixUp, OneOf
from counterpoint.core import Algorithm, BatchSpec, Rng
from tests.algorithms.batches import bits, images, plan_for, run, targets

SPEC = BatchSpec(5, (3, 8, 12), 4)


def plain(draws: Any) -> Any:
    """Return draws as lists and numbers, to compare exactly."""
    if isinstance(draws, Tensor):
        return draws.tolist()
    if isinstance(draws, Mapping):
        return {name: plain(value) for name, value in draws.items()}
    return [plain(value) for value in draws] if isinstance(draws, tuple) else draws


class TestGoldenValues:
    """Measured once with the versions of constraints.txt. Where they change, runs no longer resume bit for bit."""

    def test_streams(self) -> None:
        assert plain(Rng(17, "golden").permutation(10)) == PERMUTATION
        assert plain(Rng(17, "golden").uniform(-1, 1, (3,))) == UNIFORM
        assert plain(Rng(17, "golden").normal(0, 1, (3,))) == NORMAL
        assert plain(Rng(17, "golden").integers(0, 1000, (2, 3))) == INTEGERS
        assert plain(Rng(17, "golden").beta(0.2, 0.2, (3,))) == BETA
        assert [Rng(17, "golden", step).choice([1, 2, 3]) for step in range(12)] == CHOICES
        assert [Rng(17, "golden", step).coin(0.5) for step in range(12)] == COINS

    def test_draws_follow_one_another(self) -> None:
        rng = Rng(17, "golden")
        assert [plain(rng.permutation(4)), plain(rng.uniform()), plain(rng.integers(0, 9)), rng.coin(0.5)] == IN_A_ROW

    @pytest.mark.parametrize("step", [0, 1])
    @pytest.mark.parametrize(
        "algorithm",
        [
            MixUp(),
            CutMix(),
            CutMix(per_sample=True, id="each"),
            CutOut(),
            CutOut(num_holes=2, per_sample=False, id="holes"),
            LabelSmoothing(),
            OneOf(algorithms=[MixUp(), CutMix()]),
        ],
        ids=lambda algorithm: algorithm.identity,
    )
    def test_draws_of_every_method(self, algorithm: Algorithm[Any], step: int) -> None:
        assert plain(plan_for([algorithm]).draws(step, SPEC)) == DRAWS[algorithm.identity][step]


PERMUTATION: list[int] = [8, 4, 5, 9, 3, 6, 7, 0, 2, 1]
UNIFORM: list[float] = [0.4822656820038469, -0.4885007105023276, -0.7999147285458013]
NORMAL: list[float] = [0.9093249346367764, 0.07569428092920988, -2.3162839865342058]
INTEGERS: list[list[int]] = [[94, 741, 159], [255, 653, 100]]
BETA: list[float] = [0.9951306051931197, 0.0014883473592696185, 0.26462832038066925]
CHOICES: list[int] = [2, 2, 0, 1, 0, 0, 1, 1, 2, 1, 0, 2]
COINS: list[bool] = [False, False, True, True, True, True, True, True, False, True, True, False]
IN_A_ROW: list[Any] = [[3, 0, 2, 1], 0.10004263572709937, 2, True]
DRAWS: dict[str, list[Any]] = {
    "mixup": [{"mixup": [0.7218079087232826, [4, 3, 1, 2, 0]]}, {"mixup": [0.9954755404415864, [2, 1, 3, 4, 0]]}],
    "cutmix": [{"cutmix": [[[0, 0, 11, 5]], [2, 3, 4, 0, 1]]}, {"cutmix": [[[3, 0, 12, 4]], [4, 3, 1, 2, 0]]}],
    "each": [
        {"each": [[[1, 1, 12, 8], [0, 2, 5, 7], [0, 0, 7, 4], [1, 4, 8, 8], [0, 0, 8, 3]], [2, 0, 3, 4, 1]]},
        {"each": [[[0, 3, 4, 8], [0, 2, 4, 6], [1, 2, 10, 8], [0, 3, 4, 8], [4, 1, 7, 3]], [2, 1, 4, 0, 3]]},
    ],
    "cutout": [
        {"cutout": [[[0, 4, 2, 8]], [[0, 2, 4, 6]], [[6, 1, 10, 5]], [[0, 1, 4, 5]], [[2, 5, 6, 8]]]},
        {"cutout": [[[7, 2, 11, 6]], [[5, 1, 9, 5]], [[7, 4, 11, 8]], [[4, 0, 8, 3]], [[4, 5, 8, 8]]]},
    ],
    "holes": [{"holes": [[[0, 2, 4, 6], [0, 1, 4, 5]]]}, {"holes": [[[0, 5, 2, 8], [7, 1, 11, 5]]]}],
    "label_smoothing": [{}, {}],
    "one_of": [
        {"one_of": "one_of.mixup", "one_of.mixup": [0.6816654087047541, [2, 4, 3, 0, 1]]},
        {"one_of": "one_of.mixup", "one_of.mixup": [0.149199854532322, [0, 1, 2, 4, 3]]},
    ],
}


class TestKeys:
    """One part of the key alone makes all draws others."""

    base = (17, "mixup", 3, 0)

    def numbers(self, *key: Any) -> list[float]:
        numbers: list[float] = Rng(*key).uniform(size=(8,)).tolist()
        return numbers

    def test_equal_keys_give_equal_numbers(self) -> None:
        assert self.numbers(*self.base) == self.numbers(*self.base)

    @pytest.mark.parametrize("place", [0, 1, 2, 3])
    def test_every_part_counts(self, place: int) -> None:
        others: list[Sequence[Any]] = [(18, 0, -17, 10**30), ("mixup2", "mixuq", ""), (4, 0, 2**40), (1, 2, None)]
        keys = [(*self.base[:place], other, *self.base[place + 1 :]) for other in others[place]]
        seen = [self.numbers(*key) for key in [self.base, *keys]]
        assert len({number for numbers in seen for number in numbers}) == 8 * len(seen)

    def test_neighbouring_keys_do_not_collide(self) -> None:
        seen = {
            float(Rng(seed, name, step, rank).uniform())
            for seed, name, step, rank in itertools.product(range(8), ("mixup", "cutout"), range(50), range(4))
        }
        assert len(seen) == 8 * 2 * 50 * 4

    def test_key_parts_do_not_run_into_each_other(self) -> None:
        assert self.numbers(1, "a", 11, 0) != self.numbers(11, "a", 1, 0)
        assert self.numbers(1, "a", 1, 10) != self.numbers(1, "a", 11, 0)

    def test_numbers_of_neighbouring_steps_are_not_correlated(self) -> None:
        rows = np.array([Rng(17, "mixup", step).uniform(size=(50,)).numpy() for step in range(200)])
        assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 4 / np.sqrt(rows.size)


OTHERS: list[Algorithm[Any]] = [
    CutOut(),
    LabelSmoothing(),
    EMA(),
    CutOut(id="again", num_holes=2, p=0.5),
    CutOut(id="never", p=1e-300),
    CutOut(id="later", start="5ba"),
]


def drawn(algorithms: Sequence[Algorithm[Any]], name: str, step: int, rank: int = 0) -> Any:
    return plain(plan_for(algorithms).draws(step, SPEC, rank=rank))[name]


@pytest.mark.parametrize("mixer", [MixUp(), CutMix(), OneOf(algorithms=[MixUp(), CutMix()])], ids=lambda m: m.name)
class TestDrawsOfOneMethodAndTheRest:
    @pytest.mark.slow
    def test_adding_and_removing_others_changes_nothing(self, mixer: Algorithm[Any]) -> None:
        for step in range(4):
            alone = drawn([mixer], mixer.identity, step)
            for count in range(1, len(OTHERS) + 1):
                assert drawn([mixer, *OTHERS[:count]], mixer.identity, step) == alone
            others = plain(plan_for(OTHERS).draws(step, SPEC))
            together = plain(plan_for([mixer, *OTHERS]).draws(step, SPEC))
            assert {name: together[name] for name in others} == others

    @pytest.mark.slow
    def test_its_place_in_the_list_changes_nothing(self, mixer: Algorithm[Any]) -> None:
        listed = [mixer, CutOut(), LabelSmoothing(), EMA()]
        every = [plain(plan_for(order).draws(2, SPEC)) for order in itertools.permutations(listed)]
        assert all(draws == every[0] for draws in every)

    def test_schedules_do_not_shift_its_draws(self, mixer: Algorithm[Any]) -> None:
        """A method that skipped steps draws on the next one what it would have drawn anyway."""
        always = plan_for([mixer])
        given = {name: getattr(mixer, name) for name in mixer.model_fields_set}
        for settings in ({"every": 3}, {"start": "2ba"}, {"p": 0.5}, {"end": "5ba"}):
            plan = plan_for([type(mixer)(**given, **settings)])
            acted = 0
            for step in range(8):
                draws = plain(plan.draws(step, SPEC))
                if draws:
                    assert draws == plain(always.draws(step, SPEC))
                    acted += 1
            assert 0 < acted < 8

    def test_steps_differ(self, mixer: Algorithm[Any]) -> None:
        seen = {str(plain(plan_for([mixer]).draws(step, SPEC))) for step in range(20)}
        assert len(seen) == 20

    @pytest.mark.slow
    def test_ids_and_seeds_differ(self, mixer: Algorithm[Any]) -> None:
        given = {name: getattr(mixer, name) for name in mixer.model_fields_set}
        renamed = type(mixer)(**given, id="other")
        assert [drawn([mixer], mixer.identity, step) for step in range(8)] != [
            drawn([renamed], "other", step) for step in range(8)
        ]
        seeds = {
            str([plain(plan_for([mixer], seed=seed).draws(step, SPEC)) for step in range(8)]) for seed in range(10)
        }
        assert len(seeds) == 10

    def test_ranks_differ(self, mixer: Algorithm[Any]) -> None:
        plan = plan_for([mixer])
        seen = {str([plain(plan.draws(step, SPEC, rank=rank)) for step in range(8)]) for rank in range(4)}
        assert len(seen) == 4

    @pytest.mark.slow
    def test_what_is_drawn_is_what_is_run(self, mixer: Algorithm[Any]) -> None:
        """The engine's record, the plan's forecast and the batch agree."""
        plan = plan_for([mixer, CutOut()])
        x, y = images(5), targets(5)
        for step in range(3):
            for rank in (0, 1):
                edited_x, edited_y, record = run(plan, x, y, step, rank=rank)
                spec = BatchSpec(5, tuple(x.shape[1:]), 4)
                assert plain(record) == plain(plan.draws(step, spec, rank=rank))
                assert [bits(part) for part in plan(x, y, step=step, rank=rank)] == [bits(edited_x), bits(edited_y)]


class TestRanks:
    def test_shared_methods_draw_alike_on_every_rank(self) -> None:
        class SharedMixUp(MixUp, name="shared_mixup", shared=True):
            """MixUp with the same draws on every rank."""

        plan = plan_for([SharedMixUp(p=0.5), CutOut()])
        for step in range(8):
            every = [plain(plan.draws(step, SPEC, rank=rank)) for rank in range(4)]
            assert len({str(draws.get("shared_mixup")) for draws in every}) == 1
            assert len({str(draws["cutout"]) for draws in every}) == 4

    def test_the_default_rank_is_the_first(self) -> None:
        plan = plan_for([MixUp(alpha=1.0)])
        x, y = images(5), targets(5)
        default, first, second = (plan(x, y, step=1), plan(x, y, step=1, rank=0), plan(x, y, step=1, rank=1))
        assert bits(default[0]) == bits(first[0])
        assert bits(default[0]) != bits(second[0])


class TestResuming:
    def test_a_batch_depends_on_its_step_number_alone(self) -> None:
        listed = [MixUp(alpha=1.0, p=0.7), CutOut(), LabelSmoothing(), OneOf(algorithms=[CutOut(id="a")], every=2)]
        x, y = images(5), targets(5)
        forward = [[bits(part) for part in plan_for(listed)(x, y, step=step)] for step in range(6)]
        plan = plan_for(listed)
        for step in (4, 2, 5, 0, 5, 3, 1):
            assert [bits(part) for part in plan(x, y, step=step)] == forward[step]

    def test_an_engine_goes_on_where_its_state_says(self) -> None:
        plan = plan_for([MixUp(alpha=1.0), CutOut(p=0.5)])
        x, y = images(5), targets(5)

        def batches(engine: cp.Engine, count: int) -> list[list[bytes]]:
            seen = []
            for _ in range(count):
                with engine.batch(x, y) as batch:
                    seen.append([bits(batch.inputs), bits(batch.targets)])
            return seen

        whole = batches(cp.Engine(plan, model=nn.Identity()), 6)
        first, second = cp.Engine(plan, model=nn.Identity()), cp.Engine(plan, model=nn.Identity())
        assert batches(first, 4) == whole[:4]
        second.load_state_dict(first.state_dict())
        assert batches(second, 2) == whole[4:]


def global_states() -> list[Any]:
    numbers = np.random.get_state(legacy=True)  # noqa: NPY002 - the state that nobody may touch
    assert isinstance(numbers, tuple)
    return [bits(torch.get_rng_state()), random.getstate(), (numbers[0], numbers[1].tobytes(), *numbers[2:])]


def seed_globals(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - as above


class TestGlobalGenerators:
    """Nothing moves a global generator, and nothing depends on one."""

    everything: tuple[Algorithm[Any], ...] = (
        OneOf(algorithms=[MixUp(alpha=1.0), CutMix()], p=0.8),
        CutOut(num_holes=2),
        LabelSmoothing(),
        EMA(),
    )

    def use(self, seed: int) -> list[Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(105, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        seed_globals(seed)
        before, seen = global_states(), []
        plan = plan_for(self.everything)
        seen += [plan.fingerprint, plan.explain(), plan.to_json(), str(plain(plan.draws(3, SPEC)))]
        engine = cp.Engine(plan, model=model, optimizer=optimizer)
        with engine.fit(), engine.epoch():
            for step in range(4):
                with engine.batch(images(5), targets(5)) as batch:
                    seen += [bits(batch.inputs), bits(batch.targets), str(plain(engine.draws()))]

                    def closure(batch: cp.Batch = batch) -> Tensor:
                        with engine.forward():
                            outputs = model(batch.inputs)
                        with engine.loss():
                            loss = plan.loss(outputs, batch.targets)
                        with engine.backward():
                            loss.backward()
                        return loss.detach()

                    engine.step(closure)
                edits = plan_for(self.everything[:3])
                seen += [bits(part) for part in edits(images(5), targets(5), step=step)]
        with engine.evaluation():
            seen += [bits(value) for value in model.state_dict().values()]
        seen += [bits(value) for value in engine.state_dict().values()]
        assert global_states() == before
        return seen

    def test_are_neither_moved_nor_read(self) -> None:
        assert self.use(seed=1) == self.use(seed=2)

    def test_are_not_moved_by_a_refusal(self) -> None:
        seed_globals(3)
        before = global_states()
        with pytest.raises(cp.CompositionError):
            plan_for([MixUp(), CutMix(), "mixpu"])
        assert global_states() == before

    def test_this_test_would_see_it(self) -> None:
        seed_globals(3)
        before = global_states()
        for move in (lambda: torch.rand(1), lambda: random.random(), lambda: np.random.rand()):  # noqa: NPY002
            move()
            after = global_states()
            assert after != before
            before = after


def test_a_generator_that_was_used_before_gives_the_numbers_of_a_fresh_one() -> None:
    """Odd counts of 32-bit numbers and other leftovers of an earlier use are gone."""
    wanted = [Rng(5, "fresh", step).integers(0, 7, (3,)).tolist() for step in range(4)]
    for step in range(4):
        used = Rng(1, "used", step)
        used.integers(0, 2**31, (5,))
        used.normal(size=(3,))
        del used
        assert Rng(5, "fresh", step).integers(0, 7, (3,)).tolist() == wanted[step]


def test_generators_in_use_at_once_do_not_meet() -> None:
    one, other = Rng(1, "one"), Rng(1, "other")
    alone = [Rng(1, name).uniform(size=(4,)).tolist() for name in ("one", "other")]
    mixed = [[float(rng.uniform()) for rng in (one, other)] for _ in range(4)]
    assert [list(numbers) for numbers in zip(*mixed, strict=True)] == alone


@pytest.mark.parametrize("drawn", [0, 1])
def test_a_copy_draws_the_same_numbers_and_keeps_its_generator(drawn: int) -> None:
    rng = Rng(5, "copied")
    rng.uniform(size=(drawn,))
    wanted = copy.deepcopy(rng).uniform(size=(8,)).tolist()
    copied = copy.copy(rng)
    assert rng.uniform(size=(8,)).tolist() == wanted
    del rng
    others = [Rng(5, "other", step) for step in range(20)]
    assert [float(other.uniform()) for other in others] == [
        float(Rng(5, "other", step).uniform()) for step in range(20)
    ]
    assert copied.uniform(size=(8,)).tolist() == wanted


MAGNITUDES = st.floats(-323.0, 308.0).map(lambda exponent: 10.0**exponent)
PARAMETERS = MAGNITUDES | st.floats(0.0, exclude_min=True) | st.sampled_from([5e-324, 1e-300, 1.0, 1.7e308, math.inf])


class TestBetaNumbers:
    """Beta numbers are finite and of the right mean for parameters of every magnitude."""

    @given(PARAMETERS, PARAMETERS, st.integers(0, 2**64))
    @example(5e-324, 5e-324, 0)  # their sum, times a uniform number, is rounded to one of three numbers
    @example(1.7e308, 1.7e308, 0)  # their sum is infinite
    @example(math.inf, math.inf, 0)
    @example(1e-103, 3e-103, 0)
    def test_lie_between_0_and_1_around_their_mean(self, a: float, b: float, step: int) -> None:
        drawn = Rng(17, "beta", step).beta(a, b, (2, 2000))
        assert drawn.shape == (2, 2000)
        assert drawn.dtype == torch.float64
        assert bool(((drawn >= 0) & (drawn <= 1)).all())  # NaN is neither
        low, high = (min(max(value, 1e-300), 1e300) for value in (a, b))
        # Hoeffding: a mean of 4,000 numbers from 0 to 1 is farther off once in 10 ** 12 samples.
        assert abs(float(drawn.mean()) - low / (low + high)) < 0.06

    @given(PARAMETERS, st.integers(0, 1000), st.lists(st.integers(0, 4), max_size=3))
    def test_depend_on_the_key_alone(self, alpha: float, step: int, size: list[int]) -> None:
        wanted = Rng(17, "beta", step).beta(alpha, alpha, size)
        assert wanted.shape == tuple(size)
        used = Rng(1, "used")
        used.beta(0.3, 2.0, (7,))
        del used
        assert Rng(17, "beta", step).beta(alpha, alpha, size).tolist() == wanted.tolist()

    def test_are_those_of_numpy(self) -> None:
        for a, b in ((0.2, 0.2), (0.5, 3.0), (4.0, 2.5)):
            rng = Rng(17, "golden")
            generator = np.random.Generator(np.random.Philox())
            generator.bit_generator.state = rng._numbers.bit_generator.state
            assert rng.beta(a, b, (5,)).tolist() == generator.beta(a, b, 5).tolist()

    @pytest.mark.parametrize(("alpha", "ends"), [(1e-300, {0.0, 1.0}), (1e300, {0.5})])
    def test_extreme_parameters_give_exact_numbers(self, alpha: float, ends: set[float]) -> None:
        assert set(Rng(17, "exact").beta(alpha, alpha, (100,)).tolist()) == ends

    @pytest.mark.kind("20")
    @pytest.mark.parametrize("wrong", [0, 0.0, -1, -math.inf, math.nan, "1", None, True, 1j])
    def test_other_parameters_are_refused_by_name(self, wrong: Any) -> None:
        with pytest.raises(cp.ArgumentError, match=r"^a is "):
            Rng(17, "beta").beta(wrong, 1.0)
        with pytest.raises(cp.ArgumentError, match=r"^b is "):
            Rng(17, "beta").beta(1.0, wrong)


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 1e-9])
def test_a_tiny_alpha_keeps_each_sample_or_gives_its_partner(alpha: float) -> None:
    """Shares of exactly 0 and 1 leave no trace of the other sample."""
    plan, x, y = plan_for([MixUp(alpha=alpha)]), images(5), targets(5)
    kept = 0
    for step in range(12):
        edited, mixed = plan(x, y, step=step)
        perm = plan.draws(step, BatchSpec(5, tuple(x.shape[1:]), 4))["mixup"].perm
        sources = torch.arange(5) if bits(edited) == bits(x) else perm
        kept += bits(edited) == bits(x)
        assert bits(edited) == bits(x[sources])
        assert mixed.argmax(1).tolist() == y[sources].tolist()
        assert set(mixed.unique().tolist()) == {0.0, 1.0}
    assert 0 < kept < 12
