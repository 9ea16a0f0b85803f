"""TrivialAugment: its draws against the paper's code, its images against Pillow's, and its place among the others."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint.algorithms import EMA, CutMix, CutOut, LabelSmoothing, MixUp, Normalize, OneOf, TrivialAugment
from counterpoint.algorithms.trivial_augment import OPERATIONS, SPACES, Augmenting, magnitudes
from tests.algorithms.batches import bits, images, plan_for, targets
from tests.algorithms.digits import engine_for, resumed, train
from tests.algorithms.test_image_operations import PILLOW, from_pillow, pictures, to_pillow

NORMALIZE = Normalize(mean=[0.5], std=[0.25])


def drawn(method: TrivialAugment, size: int, seed: int = 0, channels: int = 3) -> Augmenting:
    return method.draw(cp.BatchSpec(size, (channels, 32, 32)), cp.Rng(seed, "trivial_augment"))


def papers_magnitude(operation: str, level: int, space: str) -> float | None:
    """Return what the paper's code hands to Pillow at a level from 0 to 30, without the random sign.

    Written from ``aug_lib.py`` of https://github.com/automl/trivialaugment.
    """
    wide = space == "wide"
    if operation in ("shear_x", "shear_y"):
        return float(level) * (0.99 if wide else 0.3) / 30
    if operation in ("translate_x", "translate_y"):
        return int(level * (32 if wide else 10) / 30)
    if operation == "rotate":
        return int(level * (135 if wide else 30) / 30)
    if operation == "posterize":
        return 8 - int(level * (8 - 2 if wide else 8 - 4) / 30)
    if operation == "solarize":
        return 256 - int(level * 256 / 30)
    if operation in ("color", "contrast", "brightness", "sharpness"):
        low, high = (0.01, 2.0) if wide else (0.1, 1.9)
        return float(level) * (high - low) / 30 + low
    return None


@pytest.mark.parametrize("space", SPACES)
def test_magnitudes_are_those_of_the_papers_code(space: str) -> None:
    levels = torch.arange(31)
    for operation in OPERATIONS:
        found = magnitudes(operation, levels.double() / 30, torch.ones(31), SPACES[space]).tolist()
        for level, value in enumerate(found):
            wanted = papers_magnitude(operation, level, space)
            assert value == pytest.approx(0 if wanted is None else wanted, abs=1e-12), (operation, level)


def test_operations_strengths_and_signs_are_drawn_evenly() -> None:
    size = 14 * 31 * 40
    draws = drawn(TrivialAugment(), size)
    assert draws.samples.keys() == OPERATIONS.keys()
    assert torch.equal(torch.cat(list(draws.samples.values())).sort().values, torch.arange(size))
    expected = size / 14
    assert sum((len(group) - expected) ** 2 / expected for group in draws.samples.values()) < 34.5  # p = 0.001, 13 df
    turned = draws.magnitudes["rotate"].abs().tolist()
    counts = Counter(turned)
    assert len(counts) == 31
    assert sum((count - len(turned) / 31) ** 2 / (len(turned) / 31) for count in counts.values()) < 59.7  # 30 df
    for operation in ("rotate", "shear_x", "translate_y"):
        signed = draws.magnitudes[operation][draws.magnitudes[operation] != 0]
        assert abs(float((signed > 0).double().mean()) - 0.5) < 3.3 * 0.5 / len(signed) ** 0.5


def test_fewer_strengths() -> None:
    draws = drawn(TrivialAugment(strengths=2, space="standard"), 2000)
    assert set(draws.magnitudes["rotate"].abs().tolist()) == {0.0, 30.0}
    assert set(draws.magnitudes["posterize"].tolist()) == {8.0, 4.0}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_of_bytes_are_as_in_pillow(space: str, channels: int) -> None:
    x = torch.cat([pictures(32, 32, channels), pictures(32, 32, channels).flip(3)] * 10)
    method = TrivialAugment(space=space)
    plan = cp.compose([method], task="multiclass", inputs="bytes", model_inputs={"bytes"}, seed=3)
    edited, _ = plan(x, torch.zeros(len(x), dtype=torch.int64), step=5)
    draws = plan.draws(5, cp.BatchSpec(len(x), (channels, 32, 32)))["trivial_augment"]
    assert len(draws.samples) > 10
    for operation, samples in draws.samples.items():
        for place, index in enumerate(samples.tolist()):
            if operation == "identity":
                assert torch.equal(edited[index], x[index])
                continue
            _, pillow, _, levels = PILLOW[operation]
            wanted = from_pillow(pillow(to_pillow(x[index]), float(draws.magnitudes[operation][place])))
            assert (edited[index].int() - wanted.int()).abs().max() <= levels, operation


def test_images_that_no_group_names_stay_as_they_are() -> None:
    x = images(4, kind="unit")
    edited = CF.trivial_augment(x, {"brightness": torch.tensor([2])}, {"brightness": torch.tensor([0.0])})
    assert torch.equal(edited[[0, 1, 3]], x[[0, 1, 3]])
    assert not edited[2].any()


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(cp.DataError, match=r"1 or 3 channels, \(C, H, W\), not of shape \(4, 8, 8\)"):
        plan_for([TrivialAugment()], inputs="unit")(torch.zeros(2, 4, 8, 8), targets(2), step=0)


@pytest.mark.kind("30")
@pytest.mark.parametrize("shape", [(2, 8, 8), (4, 8, 8)])
def test_draws_for_other_numbers_of_channels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(cp.DataError, match=r"trivial_augment edits images of 1 or 3 channels, \(C, H, W\), not of"):
        plan_for([TrivialAugment()], inputs="unit").draws(0, cp.BatchSpec(2, shape, 4))


def test_images_of_no_known_scale_are_refused() -> None:
    for kind in ("image", "normalized", "features"):
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([TrivialAugment()], inputs=kind)
        assert [fault.code for fault in caught.value.faults] == ["needs-unmet"]


@pytest.mark.slow
def test_it_comes_first_and_the_list_does_not_matter() -> None:
    x, y = images(6, kind="bytes"), targets(6)
    first = None
    for listed in permutations([TrivialAugment(), NORMALIZE, CutOut(), MixUp()]):
        plan = plan_for(listed, inputs="bytes", contract="always", model_inputs={"normalized"})
        assert [name for name in plan.order if name != "dense_targets"] == [
            "trivial_augment",
            "normalize",
            "cutout",
            "mixup",
        ]
        result = [bits(part) for part in plan(x, y, step=2)]
        first = first or result
        assert result == first


def test_two_of_it_follow_the_list() -> None:
    two = [TrivialAugment(id="one"), TrivialAugment(id="two", space="standard")]
    for listed in (two, two[::-1]):
        plan = plan_for(listed, inputs="bytes", contract="always")
        assert plan.order == tuple(method.identity for method in listed)
        assert [pair.outcome for pair in plan.pairs] == ["as listed"]


def test_a_choice_of_it() -> None:
    plan = plan_for([OneOf(algorithms=[TrivialAugment(), CutOut()])], inputs="unit", contract="always")
    for step in range(6):
        plan(images(5, kind="unit"), targets(5), step=step)


@pytest.mark.slow
def test_it_trains_on_digits_and_resumes_bit_for_bit() -> None:
    methods = (
        TrivialAugment(space="standard"),
        Normalize(mean=[0.305], std=[0.376]),
        OneOf(algorithms=[MixUp(), CutMix()]),
        LabelSmoothing(),
        EMA(half_life=5),
    )
    losses = train(engine_for(*methods), 84)
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])
    whole, parts = resumed(*methods, first=3, then=4)
    assert whole == parts
