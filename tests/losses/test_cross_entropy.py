from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from counterpoint import DENSE, INDEX, SMOOTHING, ConfigError, DataError
from counterpoint.losses.cross_entropy import cross_entropy, dense_cross_entropy
from tests.losses import naive
from tests.losses.parts import known, value_and_gradient

CLASSES = 5
WEIGHTS = {"unweighted": None, "weighted": (0.5, 2.0, 1.0, 3.0, 0.25), "one zero weight": (0.5, 0.0, 1.0, 3.0, 0.25)}
IGNORED = (-100, -7, 1, 255)
SMOOTHINGS = (0.0, 0.1, 1.0)
REDUCTIONS = ("none", "sum", "mean")
SHAPES = {"vector": (7,), "map": (3, 4, 2)}


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=random(seed), dtype=torch.float64)


def batch(shape: tuple[int, ...], ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Logits and class indices, of which some are ignored and every class occurs."""
    logits = normal(shape[0], CLASSES, *shape[1:])
    targets = torch.arange(torch.Size(shape).numel()).reshape(shape) % CLASSES
    targets.view(-1)[2] = ignore_index
    return logits, targets


def module(weight: tuple[float, ...] | None = None, **settings: object) -> nn.CrossEntropyLoss:
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    return nn.CrossEntropyLoss(weight=tensor, **settings)


def assert_same(loss: nn.CrossEntropyLoss, logits: Tensor, indices: Tensor, tolerance: float = 1e-12) -> None:
    """Torch on class indices and ours on the dense rows agree in value and gradient, NaN and infinity included."""
    dense = naive.dense_rows(indices, logits.shape[1], loss.ignore_index)
    wanted = value_and_gradient(loss, logits, indices)
    got = value_and_gradient(known(loss).function, logits, dense)
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("ignore_index", IGNORED)
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_dense_is_torch_on_class_indices(
    weight: tuple[float, ...] | None, ignore_index: int, smoothing: float, reduction: str, shape: tuple[int, ...]
) -> None:
    logits, indices = batch(shape, ignore_index)
    loss = module(weight, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction)
    value, gradient = value_and_gradient(loss, logits, indices)
    assert value.isfinite().all()
    assert gradient.abs().max() > 0
    assert_same(loss, logits, indices)


@pytest.mark.parametrize("settings", [*itertools.product(WEIGHTS.values(), IGNORED, SMOOTHINGS, REDUCTIONS)])
def test_class_indices_stay_with_torch(settings: tuple[tuple[float, ...] | None, int, float, str]) -> None:
    weight, ignore_index, smoothing, reduction = settings
    logits, indices = batch((3, 4), ignore_index)
    loss = module(weight, ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction)
    assert torch.equal(known(loss).function(logits, indices), loss(logits, indices))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_all_ignored(weight: tuple[float, ...] | None, smoothing: float, reduction: str) -> None:
    logits, indices = normal(4, CLASSES), torch.full((4,), -100)
    assert_same(module(weight, label_smoothing=smoothing, reduction=reduction), logits, indices)
    leaf = logits.requires_grad_()
    value = dense_cross_entropy(leaf, torch.zeros(4, CLASSES), label_smoothing=smoothing, reduction=reduction)
    assert value.isnan().all() if reduction == "mean" else bool((value == 0).all())
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    assert bool((gradient == 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize(
    "at", ["another class", "the class", "an ignored position", "a class of weight 0", "a whole row"]
)
def test_logits_of_minus_infinity(at: str, weight: tuple[float, ...] | None, smoothing: float, reduction: str) -> None:
    logits, indices = batch((7,))
    row, column = {"another class": (0, 3), "the class": (0, 0), "an ignored position": (2, 1)}.get(at, (1, 1))
    logits[row, slice(None) if at == "a whole row" else column] = -torch.inf
    assert_same(module(weight, label_smoothing=smoothing, reduction=reduction), logits, indices)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("row", [0, 2], ids=["counted", "ignored"])
def test_logits_that_are_not_numbers(row: int, smoothing: float, reduction: str) -> None:
    logits, indices = batch((7,))
    logits[row, 1] = torch.nan
    assert_same(module(label_smoothing=smoothing, reduction=reduction), logits, indices)


def test_minus_infinity_at_another_class_is_harmless() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf]], requires_grad=True)
    loss = dense_cross_entropy(logits, torch.tensor([[0.25, 0.75, 0.0]]))
    loss.backward()
    assert logits.grad is not None
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_targets_that_all_weigh_nothing(reduction: str, smoothing: float) -> None:
    loss = module((0.0, 1.0, 1.0, 1.0, 1.0), label_smoothing=smoothing, reduction=reduction)
    assert_same(loss, normal(3, CLASSES), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_empty_batch(reduction: str) -> None:
    assert_same(module(reduction=reduction, label_smoothing=0.1), normal(0, CLASSES), torch.zeros(0, dtype=torch.long))


def test_extreme_logits_keep_their_precision() -> None:
    assert_same(module(label_smoothing=0.1), normal(6, CLASSES, scale=1e4), torch.arange(6) % CLASSES, tolerance=1e-9)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
def test_mixed_targets_follow_the_formula(
    weight: tuple[float, ...] | None, smoothing: float, reduction: str, shape: tuple[int, ...]
) -> None:
    logits, indices = batch(shape)
    rows = naive.dense_rows(indices, CLASSES)
    # Every row differs: a share of another sample, some of them ignored, so that masses between 0 and 1 occur.
    share = torch.rand(shape, generator=random(1), dtype=torch.float64).unsqueeze(1)
    mixed = share * rows + (1 - share) * rows.flip(0)
    wanted = naive.cross_entropy(logits, mixed, list(weight or (1.0,) * CLASSES), smoothing, reduction)
    tensor = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    got = dense_cross_entropy(logits, mixed, weight=tensor, label_smoothing=smoothing, reduction=reduction)
    wanted_tensor = torch.tensor(wanted, dtype=torch.float64).reshape(got.shape)
    torch.testing.assert_close(got, wanted_tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_by_finite_differences(reduction: str, smoothing: float) -> None:
    logits = normal(3, CLASSES, 2, scale=1.0).requires_grad_()
    targets = naive.dense_rows(torch.tensor([[0, 1], [2, 2], [4, 3]]), CLASSES).requires_grad_()
    weight = torch.tensor(WEIGHTS["weighted"], dtype=torch.float64)

    def loss(outputs: Tensor, dense: Tensor) -> Tensor:
        return dense_cross_entropy(outputs, dense, weight=weight, label_smoothing=smoothing, reduction=reduction)

    assert torch.autograd.gradcheck(loss, (logits, targets))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_computed_in_float32(dtype: torch.dtype, smoothing: float) -> None:
    logits, indices = batch((3, 4, 2))
    half = logits.to(dtype)
    weight = torch.tensor(WEIGHTS["weighted"])
    dense = naive.dense_rows(indices, CLASSES, dtype=torch.float32)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return dense_cross_entropy(outputs, targets, weight=weight, label_smoothing=smoothing)

    value, own = value_and_gradient(loss, half, dense)
    exact, gradient = value_and_gradient(nn.CrossEntropyLoss(weight, label_smoothing=smoothing), half.float(), indices)
    assert value.dtype == torch.float32
    assert own.dtype == dtype
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own, gradient.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_class_indices_take_outputs_and_weights_of_different_dtypes(dtype: torch.dtype) -> None:
    """Torch alone would refuse weights of another dtype than the outputs', which dense targets allow."""
    logits, indices = batch((3, 4, 2))
    weight, own = torch.tensor(WEIGHTS["weighted"]), logits.to(dtype)
    value = cross_entropy(own, indices, weight=weight, label_smoothing=0.1)
    dense = naive.dense_rows(indices, CLASSES, dtype=value.dtype)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(
        value, dense_cross_entropy(own, dense, weight=weight, label_smoothing=0.1), rtol=1e-6, atol=1e-6
    )


def test_half_weights_serve_wider_outputs() -> None:
    logits, indices = batch((7,))
    weight = torch.tensor(WEIGHTS["weighted"])  # exact in half precision
    got = dense_cross_entropy(logits, naive.dense_rows(indices, CLASSES), weight=weight.half())
    torch.testing.assert_close(got, functional.cross_entropy(logits, indices, weight.double()), rtol=0, atol=1e-12)


def test_float64_outputs_are_not_rounded_to_float32_targets() -> None:
    logits, indices = batch((7,))
    got = dense_cross_entropy(logits, naive.dense_rows(indices, CLASSES, dtype=torch.float32), label_smoothing=0.1)
    assert got.dtype == torch.float64
    wanted = functional.cross_entropy(logits, indices, label_smoothing=0.1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_autocast_does_not_narrow_the_computation() -> None:
    logits, indices = batch((7,))
    single, dense = logits.float(), naive.dense_rows(indices, CLASSES, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = dense_cross_entropy(single, dense, label_smoothing=0.1)
    assert torch.equal(got, dense_cross_entropy(single, dense, label_smoothing=0.1))


def test_neither_outputs_nor_targets_are_edited() -> None:
    logits, indices = batch((7,))
    logits[0, 3] = -torch.inf
    dense = naive.dense_rows(indices, CLASSES)
    before = logits.clone(), dense.clone()
    dense_cross_entropy(logits, dense, label_smoothing=0.1)
    assert torch.equal(logits, before[0])
    assert torch.equal(dense, before[1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_narrow_integers_are_class_indices(dtype: torch.dtype) -> None:
    logits = normal(2, 200)
    loss = nn.CrossEntropyLoss()
    # 156 is what -100 becomes in uint8: it is a class here, and not ignored.
    indices = torch.tensor([156, 3])
    spec = known(loss)
    assert torch.equal(spec.function(logits, indices.to(dtype)), loss(logits, indices))
    assert spec.denominator is not None
    assert spec.denominator(indices.to(dtype)) == 2


def test_weights_are_read_at_every_call() -> None:
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0]))
    spec = known(loss)
    logits, indices = batch((7,))
    dense = naive.dense_rows(indices, CLASSES)
    assert spec.denominator is not None
    assert spec.denominator(indices) == spec.denominator(dense) == 8.0
    loss.double()
    loss.weight = torch.tensor([1.0, 5.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.equal(spec.function(logits, indices), loss(logits, indices))
    torch.testing.assert_close(spec.function(logits, dense), loss(logits, indices), rtol=0, atol=1e-12)
    assert spec.denominator(indices) == spec.denominator(dense) == 14.0


def test_weights_move_with_the_module() -> None:
    loss = nn.CrossEntropyLoss(torch.ones(3))
    spec = known(loss)
    loss.to("meta")
    logits, dense = torch.zeros(2, 3, device="meta"), torch.zeros(2, 3, device="meta")
    assert spec.denominator is not None
    assert spec.function(logits, dense).device == spec.denominator(dense).device == torch.device("meta")


@pytest.mark.parametrize("parts", [(3, 4), (1, 2, 4), (1,) * 7])
@pytest.mark.parametrize("dense", [False, True], ids=["index", "dense"])
@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_parts_of_a_batch_add_up_to_the_whole(
    reduction: str, weight: tuple[float, ...] | None, ignore_index: int, dense: bool, parts: tuple[int, ...]
) -> None:
    logits, targets = batch((7, 3), ignore_index)
    if dense:
        targets = naive.dense_rows(targets, CLASSES, ignore_index)
    loss = module(weight, ignore_index=ignore_index, label_smoothing=0.1, reduction=reduction)
    spec = known(loss)
    whole = spec.function(logits, targets)
    total = torch.zeros((), dtype=torch.float64)
    for some, their in zip(logits.split(parts), targets.split(parts), strict=True):
        share = (
            1.0 if spec.denominator is None else spec.denominator(their).double() / spec.denominator(targets).double()
        )
        total += spec.function(some, their) * share
    torch.testing.assert_close(total, whole, rtol=0, atol=1e-12)
    assert (spec.denominator is None) == (reduction == "sum")


def test_what_a_module_accepts_claims_and_ignores() -> None:
    spec = known(nn.CrossEntropyLoss(ignore_index=255, label_smoothing=0.1))
    assert spec.name == "CrossEntropyLoss"
    assert spec.accepts == {INDEX, DENSE}
    assert spec.claims == (SMOOTHING.of(0.1),)
    assert spec.ignore_index == 255
    assert known(nn.CrossEntropyLoss()).claims == ()


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ((4, 3), (4, 1)),
        ((4, 3), (1, 3)),
        ((4, 3), (3,)),
        ((4, 3), (4,)),
        ((4, 1), (4, 3)),
        ((4, 3, 2, 2), (4, 3)),
        ((4, 3, 2, 2), (4, 3, 2, 1)),
        ((4, 3, 2), (4, 2, 3)),
        ((3,), (3,)),
        ((), ()),
    ],
)
def test_shapes_that_do_not_match_are_refused(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="shape") as caught:
        cross_entropy(torch.zeros(outputs), torch.zeros(targets))
    assert str(outputs) in str(caught.value)
    assert str(targets) in str(caught.value)


@pytest.mark.parametrize("weight", [(1,), (), (4,), (3, 1), (4, 3)])
def test_weights_that_do_not_match_are_refused(weight: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="3 classes need"):
        dense_cross_entropy(torch.zeros(4, 3), torch.zeros(4, 3), weight=torch.ones(weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_dense_targets_narrower_than_float32_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=str(dtype)):
        dense_cross_entropy(torch.zeros(4, 3), torch.zeros(4, 3, dtype=dtype))


def test_outputs_that_are_no_floats_are_refused() -> None:
    with pytest.raises(DataError, match=r"outputs are torch\.int64"):
        cross_entropy(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 3))


@pytest.mark.parametrize("targets", [torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)], ids=["dense", "index"])
def test_settings_out_of_range_are_refused(targets: Tensor) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mean'"):
        cross_entropy(torch.zeros(4, 3), targets, reduction="meen")
    for smoothing in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            cross_entropy(torch.zeros(4, 3), targets, label_smoothing=smoothing)


@pytest.mark.parametrize("settings", [{"label_smoothing": 1.5}, {"reduction": "average"}])
def test_modules_with_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="|".join(settings)):
        known(module(**settings))
