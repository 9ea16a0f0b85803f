from __future__ import annotations

import math

import pytest
import torch
from counterpoint_gridmask import Grid, GridMask, grid_mask, mask_images
from pydantic import ValidationError

import counterpoint as cp


def naive_mask(period: int, kept: int, offset: tuple[int, int], angle: float, height: int, width: int) -> torch.Tensor:
    """One grid by loops over pixels; NaN where float error decides which pixel of the grid is the nearest."""
    mask = torch.full((height, width), math.nan, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            y, x = i - (height - 1) / 2, j - (width - 1) / 2
            down = math.cos(angle) * y - math.sin(angle) * x + (height - 1) / 2
            right = math.sin(angle) * y + math.cos(angle) * x + (width - 1) / 2
            if angle and any(abs(v - math.floor(v) - 0.5) < 1e-3 for v in (down, right)):
                continue
            row, column = (math.floor(v + 0.5) - o for v, o in zip((down, right), offset, strict=True))
            mask[i, j] = row % period < kept or column % period < kept
    return mask


def plan_of(*algorithms: object, **facts: object) -> cp.Plan:
    return cp.compose(list(algorithms), loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=5, **facts)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, 2.0, 5.5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (13, 29)])
def test_mask_against_loops(angle: float, height: int, width: int) -> None:
    cases = [(3, 1, (0, 0)), (5, 3, (4, 2)), (7, 6, (1, 6)), (40, 24, (39, 13)), (2, 2, (0, 1))]
    grid = Grid(
        torch.tensor([period for period, _, _ in cases]),
        torch.tensor([kept for _, kept, _ in cases]),
        torch.tensor([offset for _, _, offset in cases]),
        torch.full((len(cases),), angle),
    )
    keep = grid_mask(grid, height, width)
    assert keep.shape == (len(cases), 1, height, width)
    for found, (period, kept, offset) in zip(keep[:, 0], cases, strict=True):
        expected = naive_mask(period, kept, offset, float(grid.angle[0]), height, width)
        decided = ~expected.isnan()
        assert decided.double().mean() > 0.9
        assert torch.equal(found[decided].double(), expected[decided])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_dropped_pixels_are_filled_and_the_others_untouched(dtype: torch.dtype) -> None:
    images = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4).to(dtype)
    before = images.clone()
    keep = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    masked = mask_images(images, keep, 7.0)
    assert masked.dtype == dtype
    for n, c, i, j in torch.cartesian_prod(*map(torch.arange, images.shape)).tolist():
        assert masked[n, c, i, j] == (images[n, c, i, j] if keep[n, 0, i, j] else 7)
    assert torch.equal(images, before)


def test_draws_follow_the_paper() -> None:
    algorithm = GridMask(d_min=5, d_max=9, ratio=0.6, rotate=90.0)
    grid = algorithm.draw(cp.BatchSpec(20_000, (3, 32, 32), 10), cp.Rng(17, "gridmask", 0))
    assert set(grid.period.tolist()) == {5, 6, 7, 8}
    shares = torch.bincount(grid.period, minlength=9)[5:].double() / 20_000
    assert torch.allclose(shares, torch.full((4,), 0.25, dtype=torch.float64), atol=0.02)
    assert grid.kept.tolist() == [{5: 3, 6: 4, 7: 5, 8: 5}[period] for period in grid.period.tolist()]
    for period in (5, 6, 7, 8):
        offsets = grid.offset[grid.period == period]
        assert set(offsets.flatten().tolist()) == set(range(period))
        assert torch.allclose(offsets.double().mean(0), torch.full((2,), (period - 1) / 2).double(), atol=0.15)
    assert grid.angle.dtype == torch.float32
    assert 0 <= grid.angle.min() < 0.01
    assert math.pi / 2 - 0.01 < grid.angle.max() <= math.pi / 2


def test_kept_stripes_are_not_widened_by_float_error() -> None:
    grid = GridMask(d_min=100, d_max=101, ratio=0.07).draw(cp.BatchSpec(1, (3, 8, 8)), cp.Rng(0, "gridmask"))
    assert grid.kept.tolist() == [7]


def test_share_of_kept_pixels_is_the_papers() -> None:
    size, ratio = 400, 0.6
    keep = grid_mask(GridMask(d_min=20, d_max=21, ratio=ratio).draw(cp.BatchSpec(8, ()), cp.Rng(1, "x")), size, size)
    assert keep.double().mean().item() == pytest.approx(2 * ratio - ratio**2, abs=0.02)


def test_a_plan_with_mixup_and_label_smoothing_orders_it_and_repeats_itself() -> None:
    mask, smoothing, mixup = GridMask(d_min=2, d_max=5, ratio=0.5), "label_smoothing", {"name": "mixup", "alpha": 1.0}
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 5
    plans = [plan_of(mask, smoothing, mixup, seed=3), plan_of(mixup, mask, smoothing, seed=3)]
    (inputs, targets), again = (plan(images, labels, step=4) for plan in plans)
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    assert plans[0].order == plans[1].order
    assert plans[0].order == ("dense_targets", "label_smoothing", "gridmask", "mixup")  # single samples before mixing
    assert not torch.equal(inputs, plans[0](images, labels, step=5)[0])


def test_it_commutes_with_another_fill_only_if_the_constant_is_the_same() -> None:
    settings = {"d_min": 2, "d_max": 3, "ratio": 0.5}
    same = [plan_of(*order).order for order in (("cutout", GridMask(**settings)), (GridMask(**settings), "cutout"))]
    assert same[0] == same[1]
    other = GridMask(**settings, fill=1.0)
    assert plan_of("cutout", other).order == ("cutout", "gridmask")
    assert plan_of(other, "cutout").order == ("gridmask", "cutout")


def test_it_edits_images_alone() -> None:
    plan = plan_of(GridMask(d_min=2, d_max=3, ratio=0.5, rotate=0.0, fill=0.0), seed=3)
    images, labels = torch.ones(4, 1, 8, 8), torch.arange(4)
    inputs, targets = plan(images, labels, step=0)
    assert torch.equal(targets, labels)
    assert torch.equal(images, torch.ones(4, 1, 8, 8))
    assert inputs.mean().item() == pytest.approx(0.75)
    with pytest.raises(cp.CompositionError):
        plan_of(GridMask(), inputs="tokens")


@pytest.mark.parametrize(
    "settings",
    [
        {"d_min": 5, "d_max": 5},
        {"d_min": 1},
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"ratio": math.nan},
        {"rotate": 361.0},
        {"fill": math.inf},
        {"colour": 1},
    ],
)
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GridMask(**settings)
