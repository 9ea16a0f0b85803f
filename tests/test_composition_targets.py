"""The targets that reach the loss are exactly the mathematical composition, whatever the order of the list.

A plan is a black box here. The images of a batch are unit vectors: channel k of image k is 1 everywhere, all else is 0.
So an edited image *is* a row of the mixing matrix M at each pixel, and the targets are compared with M in float64.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, CutMix, CutOut, LabelSmoothing, MixUp, OneOf
from counterpoint.core import Algorithm
from tests.algorithms.batches import LOSSES, bits

Array = NDArray[np.float64]
N, CLASSES, HEIGHT, WIDTH = 7, 5, 9, 12
SMOOTHING = 0.1
STEPS = range(4)
SEGMENTATION_AND_MULTICLASS = ("multiclass", "segmentation")

mixers = pytest.mark.parametrize(
    "mixer",
    [
        MixUp(alpha=1.0),
        CutMix(),
        CutMix(per_sample=True, alpha=0.5),
        OneOf(algorithms=[MixUp(alpha=1.0), CutMix(per_sample=True)]),
    ],
    ids=["mixup", "cutmix", "cutmix per sample", "one of both"],
)


def units(size: int = N) -> Tensor:
    """Return images whose channels name their sample."""
    return torch.eye(size)[:, :, None, None].expand(size, size, HEIGHT, WIDTH).contiguous()


def plan_for(algorithms: Sequence[object], task: str = "multiclass", **stated: Any) -> cp.Plan:
    stated = {"num_classes": CLASSES, "seed": 5, "contract": "always", **stated}
    return cp.compose(algorithms, loss=LOSSES[task](), task=task, **stated)


def indices(task: str = "multiclass", *, ignored: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (N, HEIGHT, WIDTH) if task == "segmentation" else (N,)
    target = torch.randint(CLASSES, shape, generator=generator)
    if ignored:
        target[torch.rand(shape, generator=generator) < 0.4] = -100
    return target


def rows_of(target: Tensor) -> Array:
    """Return one-hot rows, the class axis second; zeros where the position is ignored."""
    values = target.numpy()
    return np.stack([(values == label).astype(np.float64) for label in range(CLASSES)], axis=1)


def random_rows(task: str = "multiclass", *, ignored: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(rows_of(indices(task)).shape, generator=generator, dtype=torch.float64).softmax(1)
    if ignored:
        rows[::2] = 0
    return rows.float()


def mixing(edited: Tensor) -> Array:
    """Read M at each pixel, (N, N, H, W), from edited unit images."""
    weights = edited.double().numpy()
    np.testing.assert_allclose(weights.sum(1), 1, rtol=0, atol=1e-6)
    return weights


def composed(weights: Array, rows: Array, smoothing: float) -> Array:
    """Return ``(1 - s) M y + s / C * (M m)`` for rows (N, C, ...) of mass m; M is averaged over pixels, or for each."""
    if rows.ndim == 2:
        matrix = weights.mean((2, 3))
        mixed = matrix @ rows
    else:
        mixed = np.einsum("ijhw,jchw->ichw", weights, rows)
    return (1 - smoothing) * mixed + smoothing / rows.shape[1] * mixed.sum(1, keepdims=True)


def close(actual: Tensor, wanted: Array) -> None:
    assert actual.dtype in (torch.float32, torch.float64)
    np.testing.assert_allclose(actual.double().numpy(), wanted, rtol=0, atol=1e-6)


class TestEveryOrderOfTheList:
    """[label smoothing, a mixer, CutOut] in each of the six orders: the same plan, the same bits, the right targets."""

    def orders(self, mixer: Algorithm[Any], task: str) -> list[cp.Plan]:
        listed = [LabelSmoothing(smoothing=SMOOTHING), mixer, CutOut(length=0.4, num_holes=2)]
        return [plan_for(order, task) for order in itertools.permutations(listed)]

    @mixers
    def test_one_plan(self, mixer: Algorithm[Any]) -> None:
        plans = self.orders(mixer, "multiclass")
        assert len(plans) == 6
        assert len({plan.fingerprint for plan in plans}) == 1
        (order,) = {plan.order for plan in plans}
        assert sorted(order) == sorted(["dense_targets", "cutout", "label_smoothing", mixer.identity])
        assert order[0] == "dense_targets"
        assert order.index("cutout") < order.index(mixer.identity)

    @pytest.mark.slow
    @mixers
    @pytest.mark.parametrize("task", SEGMENTATION_AND_MULTICLASS)
    @pytest.mark.parametrize("ignored", [False, True], ids=["all counted", "some ignored"])
    def test_the_right_targets_and_the_same_bits(self, mixer: Algorithm[Any], task: str, ignored: bool) -> None:
        target = indices(task, ignored=ignored)
        # CutOut hides pixels of the unit images; without it the mixer draws the same, so that M is read there.
        readable = plan_for([mixer], task)
        plans = self.orders(mixer, task)
        for step in STEPS:
            weights = mixing(readable(units(), target, step=step)[0])
            outcomes = [plan(units(), target, step=step) for plan in plans]
            for x, y in outcomes:
                close(y, composed(weights, rows_of(target), SMOOTHING))
                assert [bits(x), bits(y)] == [bits(part) for part in outcomes[0]]

    @mixers
    def test_the_images_are_those_that_the_targets_say(self, mixer: Algorithm[Any]) -> None:
        """Where no hole is, an edited image is the mixture; holes are cut into the samples before they are mixed."""
        plan, readable, holes = self.orders(mixer, "multiclass")[0], plan_for([mixer]), CutOut(length=0.4, num_holes=2)
        for step in STEPS:
            weights = mixing(readable(units(), indices(), step=step)[0])
            cut = plan_for([holes])(units(), indices(), step=step)[0].double().numpy()
            kept = np.stack([cut[j, j] for j in range(N)])  # 1 where sample j keeps its pixel, 0 in its holes
            x, _ = plan(units(), indices(), step=step)
            np.testing.assert_allclose(x.double().numpy(), weights * kept[None], rtol=0, atol=1e-6)
            assert kept.min() == 0

    @mixers
    def test_mixing_really_mixes(self, mixer: Algorithm[Any]) -> None:
        """The comparison above would be empty if M were the identity on every step."""
        plan = plan_for([mixer])
        off_diagonal = [1 - mixing(plan(units(), indices(), step=step)[0]).mean((2, 3)).trace() / N for step in STEPS]
        assert max(off_diagonal) > 0.2
        assert len({round(share, 9) for share in off_diagonal}) == len(STEPS)

    @pytest.mark.slow
    def test_with_ema_in_an_engine(self) -> None:
        listed = [LabelSmoothing(smoothing=SMOOTHING), MixUp(alpha=1.0), CutOut(), EMA()]
        without = plan_for(listed[:3])(units(), indices(), step=0)
        seen = set()
        for order in itertools.permutations(listed):
            engine = cp.Engine(plan_for(order), model=nn.Linear(1, 1))
            with engine.batch(units(), indices()) as batch:
                seen.add((engine.plan.fingerprint, bits(batch.inputs), bits(batch.targets)))
        assert [entry[1:] for entry in seen] == [tuple(bits(part) for part in without)]


class TestTheMixingMatrix:
    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_of_mixup_is_one_share_of_each_sample_and_one_of_its_partner(self, size: int) -> None:
        plan = plan_for([MixUp(alpha=1.0)])
        for step in STEPS:
            weights = mixing(plan(units(size), torch.arange(size) % CLASSES, step=step)[0])
            assert (weights == weights[:, :, :1, :1]).all()
            matrix = weights[:, :, 0, 0]
            np.testing.assert_allclose(matrix.sum(0), 1, rtol=0, atol=1e-6)
            partners = np.where(
                np.diag(matrix) > 1 - 1e-6, np.arange(size), (matrix - np.diag(np.diag(matrix))).argmax(1)
            )
            assert sorted(partners) == list(range(size))
            shares = {round(float(matrix[i, i]), 6) for i in range(size) if partners[i] != i}
            assert len(shares) <= 1

    def test_of_cutmix_is_the_exact_area_of_one_box(self) -> None:
        """Images of one value each: the pixels that carry another's value are a box, and their count is the share."""
        plan = plan_for([CutMix(per_sample=True)])
        x = torch.arange(N, dtype=torch.float32).view(N, 1, 1, 1).expand(N, 3, HEIGHT, WIDTH).contiguous()
        target = torch.arange(N) % CLASSES
        for step in STEPS:
            cut, y = plan(x, target, step=step)
            for i in range(N):
                foreign = (cut[i, 0] != i).numpy()
                rows, columns = foreign.any(1).nonzero()[0], foreign.any(0).nonzero()[0]
                owners = set(cut[i, 0][torch.from_numpy(foreign)].tolist())
                assert len(owners) <= 1
                assert foreign.sum() == len(rows) * len(columns)
                wanted = np.zeros(CLASSES)
                wanted[int(target[i])] += 1 - foreign.sum() / (HEIGHT * WIDTH)
                for owner in owners:
                    wanted[int(target[int(owner)])] += foreign.sum() / (HEIGHT * WIDTH)
                close(y[i], wanted)


@mixers
class TestWhatTheTargetsMayBe:
    @pytest.mark.parametrize("task", SEGMENTATION_AND_MULTICLASS)
    @pytest.mark.parametrize("ignored", [False, True], ids=["all counted", "some ignored"])
    def test_dense_already(self, mixer: Algorithm[Any], task: str, ignored: bool) -> None:
        plan = plan_for([mixer, LabelSmoothing(smoothing=SMOOTHING)], task)
        rows = random_rows(task, ignored=ignored)
        for step in STEPS:
            x, y = plan(units(), rows, step=step)
            close(y, composed(mixing(x), rows.double().numpy(), SMOOTHING))

    @pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
    def test_any_smoothing(self, mixer: Algorithm[Any], smoothing: float) -> None:
        plan = plan_for([LabelSmoothing(smoothing=smoothing), mixer])
        target = indices(ignored=True)
        for step in STEPS:
            x, y = plan(units(), target, step=step)
            close(y, composed(mixing(x), rows_of(target), smoothing))

    def test_several_labels(self, mixer: Algorithm[Any]) -> None:
        plan = plan_for([LabelSmoothing(smoothing=SMOOTHING), mixer], "multilabel")
        labels = (torch.rand(N, CLASSES, generator=torch.Generator().manual_seed(6)) < 0.5).float()
        for step in STEPS:
            x, y = plan(units(), labels, step=step)
            matrix = mixing(x).mean((2, 3))
            close(y, (1 - SMOOTHING) * matrix @ labels.double().numpy() + SMOOTHING / 2)

    @pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)], ids=str)
    def test_numbers_to_regress_on(self, mixer: Algorithm[Any], shape: tuple[int, ...]) -> None:
        plan = plan_for([mixer], "regression", num_classes=None)
        numbers = torch.randn(N, *shape, generator=torch.Generator().manual_seed(7))
        for step in STEPS:
            x, y = plan(units(), numbers, step=step)
            matrix = mixing(x).mean((2, 3))
            wanted = np.tensordot(matrix, numbers.double().numpy(), axes=1)
            assert y.shape == numbers.shape
            close(y, wanted)

    def test_the_mass_of_ignored_rows_mixes_too(self, mixer: Algorithm[Any]) -> None:
        target = indices(ignored=True)
        mass = rows_of(target).sum(1)
        assert 0 < mass.sum() < N
        plan = plan_for([mixer, LabelSmoothing(smoothing=SMOOTHING)])
        for step in STEPS:
            x, y = plan(units(), target, step=step)
            close(y.sum(1), mixing(x).mean((2, 3)) @ mass)

    @pytest.mark.parametrize("ignore_index", [-1, 255, 2])
    def test_the_ignored_index_is_the_losss(self, mixer: Algorithm[Any], ignore_index: int) -> None:
        loss = nn.CrossEntropyLoss(ignore_index=ignore_index)
        plan = cp.compose([mixer], loss=loss, task="multiclass", num_classes=CLASSES, seed=5)
        target = torch.tensor([0, 1, ignore_index, 3, 4, ignore_index, 0])
        rows = np.array([[float(label == c and label != ignore_index) for c in range(CLASSES)] for label in target])
        for step in STEPS:
            x, y = plan(units(), target, step=step)
            close(y, composed(mixing(x), rows, 0.0))


class TestMasksForCutMix:
    @pytest.mark.parametrize("shape", [(HEIGHT, WIDTH + 1), (HEIGHT // 2, WIDTH // 2)], ids=str)
    def test_of_other_positions_are_refused(self, shape: tuple[int, ...]) -> None:
        plan = plan_for([CutMix()], "segmentation")
        with pytest.raises(cp.DataError, match="positions"):
            plan(units(), torch.zeros(N, *shape, dtype=torch.int64), step=0)

    def test_in_one_row_are_refused(self) -> None:
        plan = plan_for([CutMix()], "segmentation")
        with pytest.raises(cp.DataError, match=r"of shape \(N, H, W\), not torch.int64 of shape \(7, 108\)"):
            plan(units(), torch.zeros(N, HEIGHT * WIDTH, dtype=torch.int64), step=0)

    def test_of_other_positions_still_mix(self) -> None:
        plan = plan_for([MixUp(alpha=1.0)], "segmentation")
        target = torch.randint(CLASSES, (N, 4, 3), generator=torch.Generator().manual_seed(1))
        x, y = plan(units(), target, step=0)
        matrix = mixing(x)[:, :, 0, 0]
        close(y, np.einsum("ij,jchw->ichw", matrix, rows_of(target)))


class TestTargetsStayDense:
    """Once any step or the loss needs dense targets, every batch of the run has them."""

    @pytest.mark.parametrize(
        "settings", [{"p": 1e-300}, {"p": 0.5}, {"start": "3ba"}, {"end": "2ba"}, {"every": 4}], ids=str
    )
    @pytest.mark.parametrize("name", ["mixup", "cutmix", "label_smoothing", "one_of"])
    def test_also_when_a_step_is_skipped(self, name: str, settings: dict[str, Any]) -> None:
        inner = {"algorithms": [MixUp(), CutMix()]} if name == "one_of" else {}
        plan = plan_for([{"name": name, **inner, **settings}])
        for step in range(8):
            _, y = plan(units(), indices(), step=step)
            assert y.shape == (N, CLASSES)
            assert y.dtype == torch.float32
            close(y.sum(1), np.ones(N))

    def test_a_branch_that_needs_none_still_gives_them(self) -> None:
        plan = plan_for([OneOf(algorithms=[MixUp(), CutOut()])])
        assert {plan(units(), indices(), step=step)[1].shape for step in range(12)} == {(N, CLASSES)}

    def test_a_plan_with_no_need_leaves_class_indices_alone(self) -> None:
        target = indices()
        for listed in ([], [CutOut()], [OneOf(algorithms=[CutOut()])]):
            _, y = plan_for(listed)(units(), target, step=0)
            assert y is target

    def test_for_a_loss_that_takes_nothing_else(self) -> None:
        def dense_loss(outputs: Tensor, targets: Tensor) -> Tensor:
            return -(targets * outputs.log_softmax(1)).sum(1).mean()

        plan = cp.compose([CutOut()], loss=dense_loss, loss_accepts={"dense"}, task="multiclass", num_classes=CLASSES)
        assert plan.order == ("dense_targets", "cutout")
        assert bits(plan(units(), indices(), step=0)[1]) == bits(torch.from_numpy(rows_of(indices())).float())


class TestTheLoss:
    @mixers
    def test_of_mixed_targets_is_the_mixture_of_losses(self, mixer: Algorithm[Any]) -> None:
        """Cross-entropy is linear in the targets: with all rows counted, the mean is the mixture of the losses."""
        plan = plan_for([mixer, LabelSmoothing(smoothing=SMOOTHING)])
        logits = torch.randn(N, CLASSES, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
        target = indices()
        for step in STEPS:
            x, y = plan(units(), target, step=step)
            matrix, total = mixing(x).mean((2, 3)), 0.0
            for i in range(N):
                for j in range(N):
                    loss = nn.functional.cross_entropy(logits[i : i + 1], target[j : j + 1], label_smoothing=SMOOTHING)
                    total += matrix[i, j] * float(loss)
            assert plan.loss(logits, y).item() == pytest.approx(total / N, abs=1e-6)


class Lossy(cp.Algorithm[None], name="lossy"):
    """Loses a tenth of the mass, and does not say so."""

    @cp.transform(targets=cp.DENSE, law=cp.Law.REDISTRIBUTE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        """Scale the rows."""
        return batch.with_targets(batch.targets * 0.9)


class LossyMixer(cp.Algorithm[None], name="lossy_mixer"):
    """Mixes neighbours with shares that sum to nine tenths."""

    @cp.transform(targets=cp.DENSE, law=cp.Law.CONVEX)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        """Mix the rows."""
        return batch.with_targets(batch.targets * 0.5 + batch.targets.roll(1, 0) * 0.4)


@pytest.mark.parametrize("lossy", [Lossy(), LossyMixer()], ids=lambda algorithm: algorithm.name)
def test_a_step_that_loses_mass_is_found_out(lossy: Algorithm[Any]) -> None:
    with pytest.raises(cp.ContractError, match=rf"{lossy.name}.*mass 0\.9"):
        plan_for([lossy])(units(), indices(), step=0)
