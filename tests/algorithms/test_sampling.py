"""What is drawn follows the papers' laws. Seeds are fixed, so that every test gives the same verdict each time."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from counterpoint.algorithms import CutMix, CutOut, MixUp, OneOf
from counterpoint.core import Algorithm, BatchSpec, Rng
from tests.algorithms.batches import plan_for

DOUBT = 1e-4
"""A test fails where a right law would give so strange a sample only once in 1 / DOUBT seeds."""


def draw(algorithm: Algorithm[Any], spec: BatchSpec, step: int) -> Any:
    return algorithm.draw(spec, Rng(17, algorithm.identity, step))


def shares(alpha: float, count: int) -> NDArray[np.float64]:
    """Return the share that MixUp draws at each of many steps."""
    mixup, spec = MixUp(alpha=alpha), BatchSpec(2, (1, 1, 1))
    return np.array([float(draw(mixup, spec, step).lam) for step in range(count)])


class ScriptedRng(Rng):
    """Gives out prepared numbers instead of drawn ones, and keeps a record of what was asked."""

    def __init__(self, betas: Sequence[float], integers: Sequence[Sequence[int]]) -> None:
        super().__init__(0, "scripted")
        self.betas, self.whole, self.asked = betas, list(integers), []  # type: Sequence[float], list[Any], list[Any]

    def beta(self, a: float, b: float, size: Sequence[int] = ()) -> Tensor:
        self.asked.append(("beta", a, b, tuple(size)))
        return torch.tensor(self.betas, dtype=torch.float64).reshape(tuple(size))

    def integers(self, low: int, high: int, size: Sequence[int] = ()) -> Tensor:
        self.asked.append(("integers", low, high, tuple(size)))
        return torch.tensor(self.whole.pop(0)).reshape(tuple(size))


class TestMixUpsShare:
    @pytest.mark.slow
    @pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 5.0])
    def test_follows_the_beta_law(self, alpha: float) -> None:
        drawn = shares(alpha, 4000)
        assert ((drawn >= 0) & (drawn <= 1)).all()
        # Shares within a float's spacing of 1 are 1: fold the law at 1/2, where they are 0, to compare what is left.
        folded = np.minimum(drawn, 1 - drawn)
        law = stats.beta(alpha, alpha)
        assert stats.kstest(folded[folded > 1e-12], lambda t: self.folded(law, t)).pvalue > DOUBT
        assert stats.binomtest(int((drawn < 0.5).sum()), len(drawn), 0.5).pvalue > DOUBT
        tiny = 2 * law.cdf(1e-12)
        assert stats.binomtest(int((folded <= 1e-12).sum()), len(drawn), tiny).pvalue > DOUBT

    @staticmethod
    def folded(law: Any, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the law of min(share, 1 - share), given that it is above 1e-12."""
        low = law.cdf(1e-12)
        values: NDArray[np.float64] = (law.cdf(t) - low) / (0.5 - low)
        return values

    def test_the_test_can_tell_laws_apart(self) -> None:
        drawn = shares(0.2, 4000)
        folded = np.minimum(drawn, 1 - drawn)
        law = stats.beta(0.25, 0.25)
        assert stats.kstest(folded[folded > 1e-12], lambda t: self.folded(law, t)).pvalue < DOUBT

    @pytest.mark.parametrize("alpha", [1e-6, 1e-4, 1e-2])
    def test_tiny_alphas(self, alpha: float) -> None:
        drawn = Rng(17, "tiny").beta(alpha, alpha, (20_000,)).numpy()
        assert np.isfinite(drawn).all()
        assert ((drawn >= 0) & (drawn <= 1)).all()
        # The mean is 1/2 and the variance 1 / (4 (2 alpha + 1)).
        error = 4 * math.sqrt(1 / (4 * (2 * alpha + 1)) / len(drawn))
        assert abs(drawn.mean() - 0.5) < error
        law = stats.beta(alpha, alpha)
        for edge in (1e-10, 1e-3, 0.1):
            inner = int(((drawn > edge) & (drawn < 1 - edge)).sum())
            assert stats.binomtest(inner, len(drawn), 1 - 2 * law.cdf(edge)).pvalue > DOUBT

    def test_tiny_shares_are_right_where_gamma_numbers_underflow(self) -> None:
        """At alpha = 0.01, half of the logarithm's law lies below 1e-30; -log(share) is exponential there."""
        drawn = Rng(17, "small").beta(0.01, 0.01, (20_000,)).numpy()
        small = drawn[(drawn > 1e-300) & (drawn < 1e-3)]
        assert (small < 1e-30).mean() > 0.3
        low, high = 0.01 * math.log(1e-300), 0.01 * math.log(1e-3)
        # There, the law's density is proportional to t ** (alpha - 1), so that t ** alpha is uniform.
        uniform = (small**0.01 - math.exp(low)) / (math.exp(high) - math.exp(low))
        assert stats.kstest(uniform, "uniform").pvalue > DOUBT

    @pytest.mark.parametrize("alpha", [1e-6, 1e-12, 1e-100, 1e-300, 5e-324, 1e6, 1e12])
    def test_never_nan(self, alpha: float) -> None:
        drawn = shares(alpha, 200)
        assert np.isfinite(drawn).all()
        assert ((drawn >= 0) & (drawn <= 1)).all()
        if alpha <= 1e-6:
            assert set(drawn.tolist()) == {0.0, 1.0}
        else:
            assert abs(drawn - 0.5).max() < 0.01

    def test_two_different_parameters(self) -> None:
        drawn = Rng(17, "skew").beta(0.5, 3.0, (4000,)).numpy()
        assert stats.kstest(drawn, stats.beta(0.5, 3.0).cdf).pvalue > DOUBT

    def test_an_alpha_of_zero_keeps_everything(self) -> None:
        assert set(shares(0.0, 20).tolist()) == {1.0}

    def test_partners_are_uniform(self) -> None:
        spec, seen = BatchSpec(3, (1, 1, 1)), Counter[tuple[int, ...]]()
        for step in range(1800):
            seen[tuple(draw(MixUp(), spec, step).perm.tolist())] += 1
        assert len(seen) == 6
        assert stats.chisquare(list(seen.values())).pvalue > DOUBT

    def test_share_and_partners_are_independent(self) -> None:
        spec, moved = BatchSpec(2, (1, 1, 1)), [[], []]  # type: BatchSpec, list[list[float]]
        for step in range(2000):
            mixing = draw(MixUp(alpha=1.0), spec, step)
            moved[int(mixing.perm[0])].append(float(mixing.lam))
        assert stats.ks_2samp(*moved).pvalue > DOUBT


class TestCutMixsBox:
    def test_the_side_takes_the_share_of_the_area(self) -> None:
        """Yun et al., section 3.1: the box has the sides W sqrt(1 - lam) and H sqrt(1 - lam) before clipping."""
        height, width = 64, 100
        for lam in (0.0, 0.1, 0.36, 0.5, 0.75, 0.9999, 1.0):
            rng = ScriptedRng([lam], [[32], [50]])
            boxes = CutMix(alpha=0.7).draw(BatchSpec(4, (3, height, width)), rng).boxes
            left, top, right, bottom = boxes[0].tolist()
            assert (bottom - top, right - left) == (int(math.sqrt(1 - lam) * 64), int(math.sqrt(1 - lam) * 100))
            assert abs((left + right) / 2 - 50) <= 0.5
            assert abs((top + bottom) / 2 - 32) <= 0.5
            assert rng.asked == [("beta", 0.7, 0.7, (1,)), ("integers", 0, 64, (1,)), ("integers", 0, 100, (1,))]

    def test_it_is_clipped_at_each_border(self) -> None:
        corners = [[0, 0, 31, 31], [0, 49, 0, 49]]
        rng = ScriptedRng([0.75] * 4, corners)
        boxes = CutMix(per_sample=True).draw(BatchSpec(4, (3, 32, 50)), rng).boxes
        assert boxes.tolist() == [[0, 0, 13, 8], [37, 0, 50, 8], [0, 23, 13, 32], [37, 23, 50, 32]]

    @pytest.mark.parametrize("alpha", [0.3, 1.0])
    def test_the_share_after_clipping_is_that_of_a_naive_sampler(self, alpha: float) -> None:
        height, width, count = 24, 40, 4000
        drawn = CutMix(alpha=alpha, per_sample=True).draw(BatchSpec(count, (3, height, width)), Rng(17, "cutmix"))
        left, top, right, bottom = drawn.boxes.unbind(1)
        area = ((right - left) * (bottom - top)).numpy()
        generator, naive = np.random.default_rng(5), []
        for _ in range(count):
            ratio = math.sqrt(1 - generator.beta(alpha, alpha))
            tall, wide = int(height * ratio), int(width * ratio)
            row, column = int(generator.integers(height)), int(generator.integers(width))
            rows = sum(0 <= row - tall // 2 + i < height for i in range(tall))
            columns = sum(0 <= column - wide // 2 + i < width for i in range(wide))
            naive.append(rows * columns)
        assert stats.ks_2samp(area, naive).pvalue > DOUBT

    def test_the_centre_is_uniform(self) -> None:
        height, width, count = 6, 9, 5400
        # Beta(1e9, 1e9) is 1/2 but for a hair: every box has the sides int(6 sqrt(1/2)) = 4 and int(9 sqrt(1/2)) = 6.
        drawn = CutMix(alpha=1e9, per_sample=True).draw(BatchSpec(count, (3, height, width)), Rng(17, "cutmix"))
        left, top, right, bottom = drawn.boxes.unbind(1)
        row, column = centres(top, bottom, 4), centres(left, right, 6)
        seen = Counter(zip(row.tolist(), column.tolist(), strict=True))
        assert set(seen) == {(r, c) for r in range(height) for c in range(width)}
        assert stats.chisquare(list(seen.values())).pvalue > DOUBT

    def test_one_for_the_batch_or_one_for_each_sample(self) -> None:
        spec = BatchSpec(64, (3, 32, 32))
        assert CutMix().draw(spec, Rng(17, "cutmix")).boxes.shape == (1, 4)
        boxes = CutMix(per_sample=True).draw(spec, Rng(17, "cutmix")).boxes
        assert boxes.shape == (64, 4)
        assert len({tuple(box) for box in boxes.tolist()}) > 50

    @pytest.mark.parametrize("alpha", [1e-6, 1e6])
    def test_extreme_alphas_give_boxes_within_the_image(self, alpha: float) -> None:
        drawn = CutMix(alpha=alpha, per_sample=True).draw(BatchSpec(500, (3, 7, 5)), Rng(17, "cutmix"))
        within(drawn.boxes, 7, 5)


class TestCutOutsHoles:
    @pytest.mark.parametrize(
        ("length", "height", "width", "side"),
        [(0.5, 32, 32, 16), (0.5, 33, 47, 16), (0.3, 9, 7, 2), (1.0, 5, 8, 5), (0.05, 10, 10, 0), (0.999, 4, 4, 3)],
    )
    def test_sides(self, length: float, height: int, width: int, side: int) -> None:
        boxes = CutOut(length=length).draw(BatchSpec(300, (3, height, width)), Rng(17, "cutout"))
        left, top, right, bottom = boxes.unbind(-1)
        within(boxes, height, width)
        assert (right - left).max() == (bottom - top).max() == side
        inner_x, inner_y = (left > 0) & (right < width), (top > 0) & (bottom < height)
        assert (right - left)[inner_x].eq(side).all()
        assert (bottom - top)[inner_y].eq(side).all()

    def test_centres_are_uniform_and_boxes_clipped(self) -> None:
        """DeVries and Taylor, section 3: the centre is uniform over the image, and the hole may lie partly outside."""
        height, width, count, side = 5, 7, 4200, 3
        boxes = CutOut(length=0.7).draw(BatchSpec(count, (3, height, width)), Rng(17, "cutout"))[:, 0]
        left, top, right, bottom = boxes.unbind(1)
        row, column = centres(top, bottom, side), centres(left, right, side)
        seen = Counter(zip(row.tolist(), column.tolist(), strict=True))
        assert set(seen) == {(r, c) for r in range(height) for c in range(width)}
        assert stats.chisquare(list(seen.values())).pvalue > DOUBT
        for r, c, box in zip(row.tolist(), column.tolist(), boxes.tolist(), strict=True):
            assert box == [max(c - 1, 0), max(r - 1, 0), min(c + 2, width), min(r + 2, height)]

    def test_holes_are_independent(self) -> None:
        boxes = CutOut(length=0.25, num_holes=2).draw(BatchSpec(4000, (3, 4, 4)), Rng(17, "cutout"))
        table = np.zeros((16, 16))
        for first, second in boxes[..., 1] * 4 + boxes[..., 0]:
            table[int(first), int(second)] += 1
        assert stats.chi2_contingency(table).pvalue > DOUBT

    @pytest.mark.parametrize(
        ("per_sample", "num_holes", "shape"), [(True, 1, (6, 1, 4)), (False, 1, (1, 1, 4)), (True, 3, (6, 3, 4))]
    )
    def test_one_for_each_sample_or_for_the_batch(
        self, per_sample: bool, num_holes: int, shape: tuple[int, ...]
    ) -> None:
        cutout = CutOut(length=0.2, per_sample=per_sample, num_holes=num_holes)
        boxes = cutout.draw(BatchSpec(6, (3, 50, 50)), Rng(17, "cutout"))
        assert boxes.shape == shape
        assert boxes.dtype == torch.int64
        assert len({tuple(box) for box in boxes.flatten(0, 1).tolist()}) == shape[0] * shape[1]


def centres(start: Tensor, end: Tensor, side: int) -> Tensor:
    """Return the centres of intervals of a side, of which one end at most was clipped, at 0 or beyond."""
    return torch.where(start > 0, start + side // 2, end - side + side // 2)


def within(boxes: Tensor, height: int, width: int) -> None:
    left, top, right, bottom = boxes.unbind(-1)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left <= right).all()
    assert (top <= bottom).all()
    assert (right <= width).all()
    assert (bottom <= height).all()


SPEC = BatchSpec(2, (1, 4, 4))


def acting(algorithms: list[object], steps: int) -> list[dict[str, Any]]:
    plan = plan_for(algorithms)
    return [plan.draws(step, SPEC) for step in range(steps)]


class TestCoins:
    @pytest.mark.slow
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
    def test_frequency(self, p: float) -> None:
        heads = sum("cutout" in drawn for drawn in acting([CutOut(p=p)], 3000))
        assert stats.binomtest(heads, 3000, p).pvalue > DOUBT

    @pytest.mark.slow
    def test_coins_of_two_methods_are_independent(self) -> None:
        both = Counter(("mixup" in drawn, "cutout" in drawn) for drawn in acting([MixUp(p=0.5), CutOut(p=0.5)], 2000))
        table = [[both[a, b] for b in (False, True)] for a in (False, True)]
        assert stats.chi2_contingency(table).pvalue > DOUBT

    @pytest.mark.slow
    def test_coins_of_steps_are_independent(self) -> None:
        heads = ["cutout" in drawn for drawn in acting([CutOut(p=0.5)], 4001)]
        pairs = Counter(itertools.pairwise(heads))
        table = [[pairs[a, b] for b in (False, True)] for a in (False, True)]
        assert stats.chi2_contingency(table).pvalue > DOUBT

    @pytest.mark.slow
    def test_the_coin_does_not_bias_the_draws(self) -> None:
        """Where heads depended on the number that the share comes from, its law would change."""
        drawn = [float(step["mixup"].lam) for step in acting([MixUp(alpha=1.0, p=0.3)], 6000) if "mixup" in step]
        assert stats.kstest(drawn, "uniform").pvalue > DOUBT


class TestChoices:
    @pytest.mark.slow
    @pytest.mark.parametrize("weights", [None, [1, 3], [0.2, 0.8], [1000, 1], [1e-300, 2]])
    def test_frequency_by_weight(self, weights: list[float] | None) -> None:
        choice = OneOf(algorithms=[MixUp(), CutMix()], weights=weights)
        seen = Counter(drawn["one_of"] for drawn in acting([choice], 2000))
        share = 0.5 if weights is None else weights[1] / sum(weights)
        assert stats.binomtest(seen["one_of.cutmix"], 2000, share).pvalue > DOUBT
        assert sum(seen.values()) == 2000

    def test_a_weight_of_zero_is_never_drawn(self) -> None:
        assert {Rng(17, "zero", step).choice([0, 1, 0]) for step in range(500)} == {1}

    def test_a_weight_of_hardly_anything_is_hardly_ever_chosen(self) -> None:
        choice = OneOf(algorithms=[MixUp(), CutMix(), CutOut()], weights=[1e-300, 1, 1e-300])
        assert {drawn["one_of"] for drawn in acting([choice], 500)} == {"one_of.cutmix"}

    @pytest.mark.slow
    def test_three_branches(self) -> None:
        choice = OneOf(algorithms=[MixUp(), CutMix(), CutOut()], weights=[5, 2, 3])
        seen = Counter(drawn["one_of"] for drawn in acting([choice], 3000))
        observed = [seen[f"one_of.{name}"] for name in ("mixup", "cutmix", "cutout")]
        assert stats.chisquare(observed, [1500, 600, 900]).pvalue > DOUBT

    @pytest.mark.slow
    def test_a_coin_on_the_choice_and_one_on_a_branch(self) -> None:
        choice = OneOf(algorithms=[MixUp(p=0.5), CutMix()], weights=[1, 1], p=0.5)
        drawn = acting([choice], 3000)
        acted = sum("one_of.mixup" in step for step in drawn)
        assert stats.binomtest(sum("one_of" in step for step in drawn), 3000, 0.5).pvalue > DOUBT
        assert stats.binomtest(acted, 3000, 0.125).pvalue > DOUBT


class TestOtherLaws:
    def test_uniform(self) -> None:
        drawn = Rng(17, "uniform").uniform(-1, 3, (4000,)).numpy()
        assert stats.kstest(drawn, stats.uniform(-1, 4).cdf).pvalue > DOUBT

    def test_normal(self) -> None:
        drawn = Rng(17, "normal").normal(2, 0.5, (4000,)).numpy()
        assert stats.kstest(drawn, stats.norm(2, 0.5).cdf).pvalue > DOUBT

    def test_integers(self) -> None:
        drawn = Counter(Rng(17, "integers").integers(-2, 5, (4000,)).tolist())
        assert set(drawn) == set(range(-2, 5))
        assert stats.chisquare(list(drawn.values())).pvalue > DOUBT
