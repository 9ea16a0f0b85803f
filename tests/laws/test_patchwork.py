"""RICAP moves positions across samples: its law says so, and its matrix at fixed draws shows it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import counterpoint as cp
from counterpoint import functional as CF
from counterpoint.algorithms import CutMix, CutOut, LabelSmoothing, Normalize
from counterpoint.core.check.commutation import commute
from counterpoint.core.declare.effects import TransformEffect

pytestmark = pytest.mark.kind("5")

N, HEIGHT, WIDTH, CLASSES = 3, 4, 5, 3


class Patches(NamedTuple):
    """Height and width of the first patch; the rows, columns (4, N) of the crops, and their samples (4, N)."""

    split: Tensor
    rows: Tensor
    columns: Tensor
    samples: Tensor


def ricap(inputs: Tensor, targets: Tensor, draws: Patches) -> tuple[Tensor, Tensor]:
    """Put crops of four samples at the corners of a new one, and mix their targets by area.

    Takahashi et al., Data Augmentation using Random Image Cropping and Patching for Deep CNNs, 2018.
    """
    high, wide = inputs.shape[-2:]
    top, left = draws.split.tolist()
    out, mixed = torch.empty_like(inputs), torch.zeros_like(targets)
    corners = itertools.product([slice(0, top), slice(top, high)], [slice(0, left), slice(left, wide)])
    for patch, (down, across) in enumerate(corners):
        h, w = down.stop - down.start, across.stop - across.start
        for number, sample in enumerate(draws.samples[patch].tolist()):
            y = min(int(draws.rows[patch, number]), high - h)
            x = min(int(draws.columns[patch, number]), wide - w)
            out[number, :, down, across] = inputs[sample, :, y : y + h, x : x + w]
        mixed += targets[draws.samples[patch]] * (h * w / (high * wide))
    return out, mixed


class Ricap(cp.Algorithm[Patches], name="ricap"):
    """RICAP, as its authors' package would declare it."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Patches:
        high, wide = batch.shape[-2:]
        split = torch.cat([rng.integers(1, high, (1,)), rng.integers(1, wide, (1,))])
        size = (4, batch.size)
        samples = torch.stack([rng.permutation(batch.size) for _ in range(4)])
        return Patches(split, rng.integers(0, high, size), rng.integers(0, wide, size), samples)

    @cp.transform(inputs=cp.IMAGES, targets=cp.MIXABLE, law=cp.Law.PATCHWORK, claims=cp.MIXING)
    def apply(self, batch: cp.Batch, draws: Patches) -> cp.Batch:
        inputs, targets = ricap(batch.inputs, batch.targets, draws)
        return batch.with_inputs(inputs).with_targets(targets)


class Believed(Ricap, name="believed"):
    """RICAP with the law of CutMix, which it breaks."""

    @cp.transform(inputs=cp.IMAGES, targets=cp.MIXABLE, law=cp.Law.PASTE, claims=cp.MIXING)
    def apply(self, batch: cp.Batch, draws: Patches) -> cp.Batch:
        raise NotImplementedError


def effect(algorithm: cp.Algorithm[Any]) -> TransformEffect:
    (found,) = algorithm.declared().transforms
    return found


@st.composite
def patches(draw: st.DrawFn) -> Patches:
    def numbers(low: int, high: int, *size: int) -> Tensor:
        count = torch.Size(size).numel()
        return torch.tensor(draw(st.lists(st.integers(low, high), min_size=count, max_size=count))).view(size)

    split = torch.tensor([draw(st.integers(1, HEIGHT - 1)), draw(st.integers(1, WIDTH - 1))])
    return Patches(split, numbers(0, HEIGHT - 1, 4, N), numbers(0, WIDTH - 1, 4, N), numbers(0, N - 1, 4, N))


def matrix(edit: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    """Read the matrix and the constant of an affine edit off unit batches: (outputs, inputs + 1)."""
    size = torch.Size(shape).numel()
    constant = edit(torch.zeros(shape, dtype=torch.float64)).flatten()
    units = torch.eye(size, dtype=torch.float64).view(size, *shape)
    return torch.stack([*(edit(unit).flatten() - constant for unit in units), constant], 1)


FIXED = Patches(
    torch.tensor([2, 3]),
    torch.tensor([[2, 1, 0], [0, 2, 1], [1, 0, 2], [2, 2, 0]]),
    torch.tensor([[2, 0, 1], [3, 1, 0], [0, 2, 1], [1, 3, 2]]),
    torch.tensor([[1, 2, 0], [0, 1, 2], [2, 0, 1], [1, 0, 2]]),
)
BOX = torch.tensor([[[1, 1, 4, 3]]])
PERM = torch.tensor([2, 0, 1])


def pixels() -> Tensor:
    return torch.arange(1.0, 1 + N * 2 * HEIGHT * WIDTH, dtype=torch.float64).view(N, 2, HEIGHT, WIDTH)


def test_ricap_and_cutout_do_not_commute() -> None:
    rows = torch.eye(N, dtype=torch.float64)
    first, _ = ricap(CF.cutout(pixels(), BOX), rows, FIXED)
    last = CF.cutout(ricap(pixels(), rows, FIXED)[0], BOX)
    assert not torch.equal(first, last)
    # by hand: the first patch of sample 0 starts at row 2, column 2 of sample 1
    assert first[0, 0, 0, 0] == CF.cutout(pixels(), BOX)[1, 0, 2, 2] == 0
    assert last[0, 0, 0, 0] == pixels()[1, 0, 2, 2] == 53


def test_cutmix_and_shared_holes_commute() -> None:
    rows = torch.eye(N, dtype=torch.float64)
    for boxes in itertools.product([torch.tensor([[0, 1, 3, 4]]), torch.tensor([[2, 0, 5, 2]])], [BOX]):
        first, _ = CF.cutmix(CF.cutout(pixels(), boxes[1]), rows, boxes[0], PERM)
        last = CF.cutout(CF.cutmix(pixels(), rows, boxes[0], PERM)[0], boxes[1])
        assert torch.equal(first, last)


def test_the_law_orders_ricap_and_paste_would_not() -> None:
    for hole in (CutOut(), CutOut(per_sample=False)):
        assert not commute(effect(Ricap()), effect(hole))
    shared = CutOut(per_sample=False)
    assert commute(effect(CutMix()), effect(shared))
    assert commute(effect(Believed()), effect(shared))  # and the numbers above say otherwise


@pytest.mark.parametrize("hole", [CutOut(), CutOut(per_sample=False)], ids=["per sample", "shared"])
@pytest.mark.parametrize("others", [[], [LabelSmoothing()], [Normalize(mean=[0.5], std=[0.5])]], ids=["", "ls", "norm"])
def test_cutout_comes_first_in_every_list(hole: cp.Algorithm[Any], others: list[cp.Algorithm[Any]]) -> None:
    for listed in itertools.permutations([Ricap(), hole, *others]):
        plan = cp.compose(listed, task="multiclass", num_classes=CLASSES, inputs="unit", seed=3)
        assert plan.order.index("cutout") < plan.order.index("ricap"), plan.order


def check_against(declared: cp.Edit, found: Tensor, samples: int, channels: int, positions: int) -> None:
    """Check that an edit's matrix, with its constant, does no more than is declared."""
    linear, constant = found[:, :-1], found[:, -1]
    assert not constant.any()  # no offset: at most linear
    torch.testing.assert_close(linear.sum(1), torch.ones(len(linear), dtype=torch.float64))
    assert (linear >= 0).all()
    if declared.form is cp.Form.SELECT:
        assert set(linear.flatten().tolist()) <= {0.0, 1.0}
    shape = (samples, channels, positions)
    table = linear.view(*shape, *shape)  # the output's axes, then those of the input
    for place, axis in enumerate((cp.Axis.SAMPLE, cp.Axis.CHANNEL, cp.Axis.POSITION)):
        blocks = table.movedim((place, place + 3), (0, 1))
        mixes = any(blocks[i, j].any() for i in range(shape[place]) for j in range(shape[place]) if i != j)
        differs = any(not torch.equal(blocks[i, i], blocks[0, 0]) for i in range(shape[place]))
        assert axis in declared.acts or not mixes, axis
        assert axis in declared.acts | declared.varies or not differs, axis


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(patches())
def test_the_law_covers_the_matrix_of_any_draws(draws: Patches) -> None:
    edits, rows = effect(Ricap()).edits, torch.eye(N, dtype=torch.float64)
    found = matrix(lambda x: ricap(x, rows, draws)[0], N, 2, HEIGHT, WIDTH)
    check_against(edits[cp.Field.INPUTS], found, N, 2, HEIGHT * WIDTH)
    mixed = matrix(lambda y: ricap(pixels(), y, draws)[1], N, CLASSES)
    check_against(edits[cp.Field.TARGETS], mixed, N, CLASSES, 1)
    # masks that move with the pixels are within the law too
    check_against(edits[cp.Field.TARGETS], found, N, 2, HEIGHT * WIDTH)


def test_the_law_of_cutmix_does_not_cover_it() -> None:
    rows = torch.eye(N, dtype=torch.float64)
    found = matrix(lambda x: ricap(x, rows, FIXED)[0], N, 2, HEIGHT, WIDTH)
    with pytest.raises(AssertionError, match="position"):
        check_against(effect(Believed()).edits[cp.Field.INPUTS], found, N, 2, HEIGHT * WIDTH)
    pasted = matrix(lambda x: CF.cutmix(x, rows, torch.tensor([[0, 1, 3, 4]]), PERM)[0], N, 2, HEIGHT, WIDTH)
    check_against(effect(CutMix()).edits[cp.Field.INPUTS], pasted, N, 2, HEIGHT * WIDTH)


def test_ricap_runs_as_declared() -> None:
    plan = cp.compose([Ricap()], task="multiclass", num_classes=CLASSES, inputs="unit", seed=3, contract="always")
    x = torch.rand(N, 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    edited, targets = plan(x, torch.arange(N), step=0)
    assert set(edited.flatten().tolist()) <= set(x.flatten().tolist())
    torch.testing.assert_close(targets.sum(1), torch.ones(N))
