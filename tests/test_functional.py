"""The pure functions against naive float64 loops, on values that nobody drew."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import counterpoint as cp
import counterpoint.functional as CF
from tests.algorithms.batches import bits

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rows(*shape: int, seed: int = 0) -> Tensor:
    """Return random class probabilities, class axis 1, the first sample ignored."""
    values = noise(*shape, seed=seed).softmax(1)
    values[0] = 0
    return values


def close(actual: Tensor, wanted: Any, error: float) -> None:
    np.testing.assert_allclose(actual.double().numpy(), np.asarray(wanted), rtol=0, atol=error)


class TestDenseTargets:
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
    def test_every_integer_dtype(self, dtype: torch.dtype) -> None:
        rows = CF.dense_targets(torch.tensor([2, 0, 1], dtype=dtype), 3)
        assert rows.dtype == torch.float32
        assert rows.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]

    @dtypes
    def test_the_dtype_asked_for(self, dtype: torch.dtype) -> None:
        assert CF.dense_targets(torch.tensor([1]), 2, dtype=dtype).dtype == dtype

    def test_positions_put_the_class_axis_second(self) -> None:
        target = torch.tensor([[[0, 1, 2], [2, 2, -100]], [[1, 1, 1], [0, -100, 0]]])
        dense = CF.dense_targets(target, 3)
        assert dense.shape == (2, 3, 2, 3)
        for n in range(2):
            for label in range(3):
                for h in range(2):
                    for w in range(3):
                        assert dense[n, label, h, w] == (1 if target[n, h, w] == label else 0)

    @pytest.mark.parametrize("ignore_index", [-100, -1, 1, 255])
    def test_ignored_positions_become_rows_of_zeros(self, ignore_index: int) -> None:
        target = torch.tensor([0, ignore_index, 2])
        assert CF.dense_targets(target, 3, ignore_index=ignore_index).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]

    def test_an_ignored_index_of_bytes(self) -> None:
        target = torch.tensor([0, 255], dtype=torch.uint8)
        assert CF.dense_targets(target, 2, ignore_index=255).tolist() == [[1, 0], [0, 0]]

    def test_no_samples(self) -> None:
        assert CF.dense_targets(torch.zeros(0, dtype=torch.int64), 3).shape == (0, 3)

    def test_the_target_is_not_edited(self) -> None:
        target = torch.tensor([0, -100, 2])
        CF.dense_targets(target, 3)
        assert target.tolist() == [0, -100, 2]

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            (torch.float16, torch.float32),
            (torch.bfloat16, torch.float32),
            (torch.float32, torch.float32),
            (torch.float64, torch.float64),
        ],
        ids=str,
    )
    def test_dense_ones_pass_in_float32_at_least(self, given: torch.dtype, wanted: torch.dtype) -> None:
        target = torch.tensor([[0.25, 0.75], [0.0, 0.0]], dtype=given)
        dense = CF.dense_targets(target, 2)
        assert dense.dtype == wanted
        assert dense.tolist() == [[0.25, 0.75], [0.0, 0.0]]

    @pytest.mark.parametrize(("target", "named"), [([0, 3], "3"), ([-1, 0], "-1"), ([0, -99], "-99")])
    def test_a_class_out_of_range_is_named(self, target: list[int], named: str) -> None:
        with pytest.raises(cp.DataError, match=f"target {named} is no class: 3 classes are 0 to 2"):
            CF.dense_targets(torch.tensor(target), 3)

    @pytest.mark.parametrize(
        "target",
        [
            torch.tensor([True, False]),
            torch.tensor(1),
            torch.tensor([1j]),
            torch.rand(4),
            torch.rand(4, 2),
            torch.rand(4, 2, 3),
        ],
        ids=["booleans", "a number", "complex", "float (N)", "float (N, 2)", "float (N, H, 3)"],
    )
    def test_what_is_neither_indices_nor_dense_is_refused(self, target: Tensor) -> None:
        with pytest.raises(cp.DataError):
            CF.dense_targets(target, 3)


class TestMixup:
    perm = torch.tensor([3, 1, 4, 0, 2])

    @dtypes
    @pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
    @pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 4, 3)], ids=str)
    def test_one_share(self, dtype: torch.dtype, lam: float, shape: tuple[int, ...]) -> None:
        x, y = noise(*shape, dtype=dtype), rows(5, 4)
        for given in (lam, torch.tensor(lam, dtype=torch.float64)):
            mixed_x, mixed_y = CF.mixup(x, y, given, self.perm)
            assert (mixed_x.dtype, mixed_y.dtype) == (dtype, torch.float32)
            for mixed, plain, error in ((mixed_x, x, 8 * torch.finfo(dtype).eps), (mixed_y, y, 1e-6)):
                for i, j in enumerate(self.perm.tolist()):
                    close(mixed[i], lam * plain[i].double() + (1 - lam) * plain[j].double(), error)

    def test_a_share_for_each_sample(self) -> None:
        x, y, lam = noise(5, 2, 4, 3), rows(5, 4, 6), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
        mixed_x, mixed_y = CF.mixup(x, y, lam, self.perm)
        for mixed, plain in ((mixed_x, x), (mixed_y, y)):
            for i, j in enumerate(self.perm.tolist()):
                share = float(lam[i])
                close(mixed[i], share * plain[i].double() + (1 - share) * plain[j].double(), 1e-6)

    def test_float64_is_mixed_in_float64(self) -> None:
        x = noise(5, 3, dtype=torch.float64)
        mixed, _ = CF.mixup(x, x, torch.tensor(0.1234567890123456789, dtype=torch.float64), self.perm)
        close(mixed, 0.1234567890123456789 * x + (1 - 0.1234567890123456789) * x[self.perm], 1e-15)

    @pytest.mark.parametrize("wrong", [torch.arange(5), torch.zeros(5, dtype=torch.uint8)], ids=["indices", "bytes"])
    def test_integers_are_refused(self, wrong: Tensor) -> None:
        with pytest.raises(cp.DataError, match="floating"):
            CF.mixup(noise(5, 3), wrong, 0.5, self.perm)
        with pytest.raises(cp.DataError, match="floating"):
            CF.mixup(wrong, rows(5, 3), 0.5, self.perm)

    def test_gradients_flow(self) -> None:
        x = noise(5, 3).requires_grad_()
        CF.mixup(x, rows(5, 2), 0.25, self.perm)[0].sum().backward()
        close(x.grad if x.grad is not None else torch.zeros(()), torch.ones(5, 3), 1e-6)


BOXES = torch.tensor([[0, 0, 0, 0], [0, 0, 7, 5], [2, 1, 5, 4], [6, 0, 7, 1], [0, 3, 7, 5]])
"""Nothing, the whole image, a part, a corner, two whole rows; images are 5 high and 7 wide."""


def in_box(box: list[int], row: int, column: int) -> bool:
    left, top, right, bottom = box
    return left <= column < right and top <= row < bottom


class TestCutmix:
    perm = torch.tensor([2, 0, 3, 4, 1])

    @pytest.mark.parametrize("boxes", [BOXES, *BOXES.split(1)], ids=["one each", *map(str, BOXES.tolist())])
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
    def test_pixels_and_exact_area(self, boxes: Tensor, dtype: torch.dtype) -> None:
        x, y = (noise(5, 3, 5, 7) * 40 + 100).to(dtype), rows(5, 4)
        cut_x, cut_y = CF.cutmix(x, y, boxes, self.perm)
        assert cut_x.dtype == dtype
        for i, j in enumerate(self.perm.tolist()):
            box = boxes[i if len(boxes) > 1 else 0].tolist()
            pasted = 0
            for row in range(5):
                for column in range(7):
                    source = j if in_box(box, row, column) else i
                    pasted += source == j if i != j else in_box(box, row, column)
                    assert torch.equal(cut_x[i, :, row, column], x[source, :, row, column])
            close(cut_y[i], (1 - pasted / 35) * y[i].double() + pasted / 35 * y[j].double(), 1e-6)

    @pytest.mark.parametrize("boxes", [BOXES, BOXES[2:3]], ids=["one each", "one for all"])
    def test_masks_take_their_partners_positions(self, boxes: Tensor) -> None:
        x, y = noise(5, 3, 5, 7), rows(5, 4, 5, 7)
        cut_x, cut_y = CF.cutmix(x, y, boxes, self.perm)
        for i, j in enumerate(self.perm.tolist()):
            for row in range(5):
                for column in range(7):
                    source = j if in_box(boxes[i if len(boxes) > 1 else 0].tolist(), row, column) else i
                    assert torch.equal(cut_x[i, :, row, column], x[source, :, row, column])
                    assert torch.equal(cut_y[i, :, row, column], y[source, :, row, column])

    def test_masks_of_another_resolution_are_refused(self) -> None:
        for shape in ((5, 4, 5, 6), (5, 4, 6, 7), (5, 4, 10, 14), (5, 4, 1, 1)):
            with pytest.raises(cp.DataError, match="positions"):
                CF.cutmix(noise(5, 3, 5, 7), rows(*shape), BOXES, self.perm)

    def test_class_indices_are_refused(self) -> None:
        with pytest.raises(cp.DataError, match="floating"):
            CF.cutmix(noise(5, 3, 5, 7), torch.arange(5), BOXES, self.perm)

    def test_two_samples_with_one_box_each(self) -> None:
        x, y = noise(2, 1, 5, 7), torch.eye(2)
        _, cut = CF.cutmix(x, y, BOXES[1:3], torch.tensor([1, 0]))
        close(cut, [[0, 1], [9 / 35, 26 / 35]], 1e-6)


class TestCutout:
    @pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
    @pytest.mark.parametrize("fill", [0.0, 7.0])
    @pytest.mark.parametrize(
        "boxes",
        [
            BOXES[:, None],
            BOXES[2:3, None],
            torch.stack([BOXES, BOXES.flip(0), torch.tensor([1, 1, 4, 3]).expand(5, 4)], dim=1),
            BOXES[None, 2:],
        ],
        ids=["(N, 1, 4)", "(1, 1, 4)", "(N, 3, 4)", "(1, 3, 4)"],
    )
    def test_holes(self, boxes: Tensor, fill: float, dtype: torch.dtype) -> None:
        x = (noise(5, 3, 5, 7) * 40 + 100).to(dtype)
        before = bits(x)
        cut = CF.cutout(x, boxes, fill=fill)
        assert cut.dtype == dtype
        assert bits(x) == before
        for i in range(5):
            holes = boxes[i if len(boxes) > 1 else 0].tolist()
            for row in range(5):
                for column in range(7):
                    wanted = x[i, :, row, column]
                    if any(in_box(box, row, column) for box in holes):
                        wanted = torch.full((3,), fill, dtype=dtype)
                    assert bits(cut[i, :, row, column]) == bits(wanted)

    def test_a_hole_hides_what_is_not_finite(self) -> None:
        x = torch.full((1, 1, 5, 7), float("nan"))
        assert CF.cutout(x, torch.tensor([[[0, 0, 7, 5]]])).tolist() == torch.zeros(1, 1, 5, 7).tolist()


class TestSmoothLabels:
    @dtypes
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7, 1.0])
    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6), (4, 5, 3, 2)], ids=str)
    def test_each_row_keeps_its_mass(self, dtype: torch.dtype, smoothing: float, shape: tuple[int, ...]) -> None:
        y = rows(*shape).to(dtype)
        smooth = CF.smooth_labels(y, smoothing)
        assert smooth.dtype == dtype
        error = 4 * torch.finfo(dtype).eps
        given = y.double().numpy()
        for place in np.ndindex(*given.shape):
            column = (place[0], slice(None), *place[2:])
            wanted = (1 - smoothing) * given[place] + smoothing / shape[1] * sum(given[column])
            assert abs(smooth[place].item() - wanted) <= error
        assert smooth[0].abs().max() == 0
        close(smooth.sum(1, dtype=torch.float64), y.sum(1, dtype=torch.float64), shape[1] * error)

    def test_torch_smooths_alike(self) -> None:
        logits, target = noise(6, 5, dtype=torch.float64), torch.tensor([0, 4, 2, 2, 1, 3])
        smooth = CF.smooth_labels(CF.dense_targets(target, 5, dtype=torch.float64), 0.3)
        wanted = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.3)
        torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, smooth), wanted, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("wrong", [torch.arange(4), torch.eye(4, dtype=torch.int64), torch.ones(4)], ids=str)
    def test_what_is_not_dense_is_refused(self, wrong: Tensor) -> None:
        with pytest.raises(cp.DataError, match="dense"):
            CF.smooth_labels(wrong, 0.1)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
    def test_each_of_several_labels_moves_towards_a_half(self, smoothing: float) -> None:
        y = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.25]])
        smooth = CF.smooth_multi_hot(y, smoothing)
        for place in np.ndindex(2, 3):
            assert abs(smooth[place].item() - ((1 - smoothing) * y[place].item() + smoothing * 0.5)) <= 1e-7
        assert y.tolist() == [[1.0, 0.0, 0.5], [0.0, 1.0, 0.25]]


class TestMovingAverage:
    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_the_formula(self, dtype: torch.dtype, decay: float) -> None:
        average, value = noise(50, dtype=dtype), noise(50, dtype=dtype, seed=1)
        moved = CF.moving_average(average, value, decay)
        error = 4 * torch.finfo(dtype).eps
        for i in range(50):
            assert abs(moved[i].item() - (decay * average[i].item() + (1 - decay) * value[i].item())) <= error

    @pytest.mark.kind("30")
    def test_a_decay_of_zero_copies_whatever_the_average_was(self) -> None:
        """Zero times infinity is not a number, and so is what a sum makes of it."""
        for average in (torch.inf, torch.nan, 3e38, 0.0):
            for value in (-0.0, 0.5, -torch.inf):
                copied = CF.moving_average(torch.tensor([average, 1.0]), torch.tensor([value, value]), 0.0)
                assert bits(copied) == bits(torch.tensor([value, value]))

    def test_a_decay_of_zero_copies_bit_for_bit(self) -> None:
        assert bits(CF.moving_average(noise(50), noise(50, seed=1), 0.0)) == bits(noise(50, seed=1))

    @dtypes
    def test_the_result_has_the_dtype_of_the_average(self, dtype: torch.dtype) -> None:
        assert CF.moving_average(noise(3), noise(3, dtype=dtype), 0.5).dtype == torch.float32

    def test_it_writes_where_it_is_told(self) -> None:
        average = noise(3)
        wanted = CF.moving_average(average, noise(3, seed=1), 0.5)
        before = bits(average)
        assert before != bits(wanted)
        CF.moving_average(average, noise(3, seed=1), 0.5, out=average)
        assert bits(average) == bits(wanted)


@pytest.mark.parametrize("name", CF.__all__)
def test_every_function_says_what_it_does_with_an_example(name: str) -> None:
    function: Callable[..., Any] = getattr(CF, name)
    assert ">>> " in (inspect.getdoc(function) or "")


def test_no_function_edits_what_it_is_given() -> None:
    x, y, perm = noise(5, 3, 5, 7), rows(5, 4), torch.tensor([2, 0, 3, 4, 1])
    before = bits(x), bits(y)
    CF.mixup(x, y, 0.3, perm)
    CF.cutmix(x, y, BOXES, perm)
    CF.cutout(x, BOXES[:, None])
    CF.smooth_labels(y, 0.1)
    CF.smooth_multi_hot(y, 0.1)
    CF.dense_targets(y, 4)
    CF.moving_average(x, x, 0.5)
    assert (bits(x), bits(y)) == before
