"""Any object given to a pure function gets a result, or an error of Counterpoint's in the terms of its arguments."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import counterpoint as cp
import counterpoint.functional as CF
from tests.objects import anything, batches, plain, shapes, tensors

pytestmark = pytest.mark.kind("10")

X = torch.rand(4, 3, 5, 6)
ROWS = torch.full((4, 3), 1 / 3)
PERM = torch.tensor([1, 0, 3, 2])
EACH = torch.full((4,), 0.5)
BOXES = torch.tensor([[0, 1, 3, 4]])
GOOD: dict[str, dict[str, Any]] = {
    "mixup": {"inputs": X, "targets": ROWS, "lam": 0.3, "perm": PERM},
    "cutmix": {"inputs": X, "targets": ROWS, "boxes": BOXES, "perm": PERM},
    "cutout": {"inputs": X, "boxes": BOXES[None], "fill": 0.5},
    "ignore_holes": {"targets": X, "boxes": BOXES[None]},
    "smooth_labels": {"targets": ROWS, "smoothing": 0.1},
    "smooth_multi_hot": {"targets": ROWS, "smoothing": 0.1},
    "dense_targets": {"target": PERM, "num_classes": 4, "ignore_index": -100, "dtype": torch.float32},
    "normalize": {"inputs": X, "mean": [0.5], "std": [0.2, 0.3, 0.4], "dtype": torch.float16, "channels_last": True},
    "affine": {"images": X, "matrices": torch.rand(4, 6)},
    "rotate": {"images": X, "degrees": EACH},
    "shear_x": {"images": X, "factor": EACH},
    "shear_y": {"images": X, "factor": EACH},
    "translate_x": {"images": X, "pixels": EACH},
    "translate_y": {"images": X, "pixels": EACH},
    "auto_contrast": {"images": X},
    "equalize": {"images": X},
    "solarize": {"images": X, "threshold": EACH},
    "posterize": {"images": X, "bits": PERM},
    "color": {"images": X, "factor": EACH},
    "contrast": {"images": X, "factor": EACH},
    "brightness": {"images": X, "factor": EACH},
    "sharpness": {"images": X, "factor": EACH},
    "trivial_augment": {
        "inputs": X,
        "samples": {"rotate": torch.tensor([0, 2]), "posterize": torch.tensor([1])},
        "magnitudes": {"rotate": torch.tensor([10.0, 3.0]), "posterize": torch.tensor([4.0])},
        "in_place": False,
    },
    "blur_kernel": {"size": 3},
    "blur2d": {"inputs": X, "kernel": torch.full((3, 3), 1 / 9), "stride": (2, 1), "padding": "reflect"},
    "moving_average": {"average": ROWS, "value": ROWS + 1, "decay": 0.9, "out": None},
    "sam_perturbation": {"weights": [X, ROWS], "gradients": [X, ROWS], "rho": 0.05, "adaptive": True},
    "select_by_loss": {"losses": EACH, "keys": EACH, "keep": 2, "beta": 1.0},
}


def test_every_function_has_a_case_with_every_argument() -> None:
    assert set(GOOD) == set(CF.__all__)
    for name, arguments in GOOD.items():
        assert list(arguments) == list(inspect.signature(getattr(CF, name)).parameters), name


@pytest.mark.parametrize("name", GOOD)
def test_good_arguments_pass_by_place_and_by_name(name: str) -> None:
    function, arguments = getattr(CF, name), GOOD[name]
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    placed = [value for value, kind in zip(arguments.values(), kinds, strict=True) if kind is not kind.KEYWORD_ONLY]
    named = dict(list(arguments.items())[len(placed) :])
    found, again = function(**arguments), function(*placed, **named)
    for one, other in zip(_flat(found), _flat(again), strict=True):
        assert torch.equal(one, other)


def _flat(found: Any) -> list[torch.Tensor]:
    return list(found) if isinstance(found, tuple | list) else [found]


@pytest.mark.slow
@pytest.mark.parametrize("name", GOOD)
def test_any_object_in_the_place_of_one_argument(name: str) -> None:
    function, arguments = getattr(CF, name), GOOD[name]

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from([*arguments]), anything | tensors(batches))
    def fuzz(argument: str, value: Any) -> None:
        try:
            function(**{**arguments, argument: value})
        except (cp.DataError, cp.ArgumentError) as error:
            message = str(error)
        else:
            return
        assert 0 < len(message) < 600

    fuzz()


@pytest.mark.slow
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*GOOD]), st.data())
def test_tensors_that_do_not_belong_together(name: str, data: st.DataObject) -> None:
    arguments = {
        argument: data.draw(tensors(shapes | batches) | st.just(value) | st.just(value) | plain, label=argument)
        for argument, value in GOOD[name].items()
    }
    try:
        getattr(CF, name)(**arguments)
    except (cp.DataError, cp.ArgumentError) as error:
        message = str(error)
    else:
        return
    assert 0 < len(message) < 600


def wrong(name: str, **changed: Any) -> None:
    getattr(CF, name)(**{**GOOD[name], **changed})


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("mixup", {"lam": 1.5}, r"lam is 1\.5; it is a number from 0 to 1"),
        ("mixup", {"lam": float("nan")}, "lam is nan"),
        ("mixup", {"lam": torch.tensor([0.5, 0.5, -0.1, 1])}, r"lam holds -0\.1.*from 0 to 1"),
        ("mixup", {"lam": torch.rand(3)}, r"one for each of inputs, \(4,\), not \(3,\)"),
        ("mixup", {"perm": torch.tensor([0, 1, 2, 4])}, "perm holds 4; it holds numbers from -4 to 3"),
        ("mixup", {"perm": torch.tensor([0, 1, 2, -5])}, "perm holds -5"),
        ("mixup", {"perm": PERM.float()}, "perm holds an int64 index for each of inputs"),
        ("mixup", {"perm": PERM[:3]}, r"not torch\.int64 of shape \(3,\)"),
        ("mixup", {"inputs": X.long()}, r"inputs holds floating numbers, not torch\.int64"),
        ("mixup", {"targets": ROWS[:3]}, "targets has a row for each of inputs, 4"),
        ("cutmix", {"boxes": torch.tensor([[0, 0, 7, 5]])}, "boxes holds 7; it holds numbers from 0 to 6"),
        ("cutmix", {"boxes": torch.tensor([[0, 0, 6, 6]])}, "boxes holds 6; it holds numbers from 0 to 5"),
        ("cutmix", {"boxes": torch.tensor([[-1, 0, 6, 5]])}, "boxes holds -1"),
        ("cutmix", {"boxes": BOXES.expand(3, 4)}, r"shape \(N or 1, 4\) for 4 images, not \(3, 4\)"),
        ("cutmix", {"boxes": BOXES.int()}, r"boxes holds int64 positions.*boxes\.long\(\)"),
        ("cutout", {"boxes": BOXES}, r"shape \(N or 1, K, 4\)"),
        ("cutout", {"fill": None}, "fill is None"),
        ("cutout", {"inputs": X[0]}, r"inputs has 4 axes, not the shape \(3, 5, 6\)"),
        ("smooth_labels", {"smoothing": -0.1}, r"smoothing is -0\.1"),
        ("smooth_labels", {"smoothing": True}, "smoothing is True"),
        ("dense_targets", {"num_classes": 0}, "num_classes is 0; it is a whole number of at least 1"),
        ("dense_targets", {"num_classes": 3.0}, r"num_classes is 3\.0"),
        ("dense_targets", {"dtype": torch.int64}, r"dtype is torch\.int64; it is one of torch\.float16"),
        ("dense_targets", {"target": None}, "target must be a tensor, not None"),
        ("dense_targets", {"target": np.array([1])}, r"NumPy array of shape \(1,\): give torch\.as_tensor"),
        ("normalize", {"std": [0.0]}, r"std\[0\] is 0\.0"),
        ("normalize", {"mean": 0.5}, r"mean is 0\.5; it is a list or tuple"),
        ("normalize", {"mean": [0.1, 0.2]}, "mean holds 2 numbers, and the images have 3 channels"),
        ("rotate", {"degrees": torch.tensor([1.0, 2, 3, float("inf")])}, "degrees holds inf"),
        ("rotate", {"degrees": 3.0}, "degrees must be a tensor, not of type float"),
        ("posterize", {"bits": torch.tensor([1, 2, 3, 9])}, "bits holds 9; it holds numbers from 0 to 8"),
        ("trivial_augment", {"samples": {"turn": PERM}}, "it is a dict by operations: identity"),
        ("trivial_augment", {"samples": {"rotate": torch.tensor([4])}}, r"samples\['rotate'\] holds an index beyond"),
        ("trivial_augment", {"magnitudes": {"rotate": torch.rand(2)}}, "magnitudes has nothing for posterize"),
        (
            "trivial_augment",
            {"samples": {"rotate": torch.tensor([0.0, 2.0]), "posterize": torch.tensor([1])}},
            r"samples\['rotate'\] holds torch\.int64 numbers, not torch\.float32",
        ),
        ("trivial_augment", {"samples": {"rotate": torch.tensor([-5])}}, r"samples\['rotate'\] holds an index beyond"),
        ("trivial_augment", {"samples": {"rotate": torch.tensor([0, 2])}}, "magnitudes has 'posterize', and samples"),
        (
            "trivial_augment",
            {"magnitudes": {"rotate": torch.ones(2), "posterize": torch.tensor([9.0])}},
            r"magnitudes\['posterize'\] holds 9.*from 0 to 8",
        ),
        (
            "trivial_augment",
            {"magnitudes": {"rotate": torch.ones(2), "posterize": torch.tensor([-1.0])}},
            r"magnitudes\['posterize'\] holds -1",
        ),
        (
            "trivial_augment",
            {"magnitudes": {"rotate": torch.tensor([0.0, 2e6]), "posterize": torch.ones(1)}},
            r"magnitudes\['rotate'\] holds 2",
        ),
        ("affine", {"matrices": torch.rand(4, 5)}, r"six floating numbers for each image.*\(4, 5\)"),
        ("affine", {"matrices": torch.rand(3, 6)}, r"six floating numbers for each image.*\(3, 6\)"),
        ("affine", {"matrices": torch.ones(4, 6, dtype=torch.int64)}, r"not torch\.int64 of \(4, 6\)"),
        ("blur_kernel", {"size": 0}, "size is 0"),
        ("blur_kernel", {"size": 1001}, "size is 1001"),
        ("blur2d", {"stride": (1, 1, 1)}, r"two whole numbers, \(vertical, horizontal\)"),
        ("blur2d", {"stride": (1,)}, r"two whole numbers, \(vertical, horizontal\)"),
        ("blur2d", {"kernel": torch.ones(0, 3)}, "kernel is not empty"),
        ("blur2d", {"kernel": torch.ones(3)}, "kernel has 2 axes"),
        ("normalize", {"dtype": torch.uint8}, r"dtype is torch\.uint8; it is one of torch\.float16"),
        ("normalize", {"std": [1e-31]}, r"std\[0\] is 1e-31"),
        ("smooth_multi_hot", {"smoothing": 1.5}, r"smoothing is 1\.5"),
        ("dense_targets", {"num_classes": (1 << 24) + 1}, "num_classes is 16777217"),
        ("moving_average", {"decay": -0.1}, r"decay is -0\.1"),
        ("moving_average", {"out": torch.zeros(4, 3, dtype=torch.float64)}, r"out holds.* not torch\.float64"),
        ("moving_average", {"out": torch.zeros(4)}, r"out has the shape of average, \(4, 3\)"),
        ("sam_perturbation", {"gradients": [X, ROWS[:2]]}, "gradients holds tensors of the shapes of the weights"),
        ("sam_perturbation", {"gradients": [ROWS, X]}, "gradients holds tensors of the shapes of the weights"),
        ("select_by_loss", {"keep": 0}, "keep is 0"),
        ("select_by_loss", {"beta": -0.5}, r"beta is -0\.5"),
        ("select_by_loss", {"keys": torch.rand(3)}, r"keys has the shape of losses, \(4,\)"),
        ("blur2d", {"stride": (0, 1)}, r"stride\[0\] is 0"),
        ("blur2d", {"padding": "same"}, "padding is 'same'; it is one of 'replicate'"),
        ("moving_average", {"value": X}, r"value has the shape of average, \(4, 3\)"),
        ("moving_average", {"decay": 1.1}, r"decay is 1\.1"),
        ("sam_perturbation", {"gradients": [X]}, "gradients holds 1 values, and weights 2"),
        ("sam_perturbation", {"rho": -1}, "rho is -1; it is a number from 0 to inf"),
        ("select_by_loss", {"keep": 5}, "keep is 5; it is a whole number of at least 1 and at most 4"),
        ("select_by_loss", {"beta": float("nan")}, "beta is nan"),
    ],
)
def test_what_is_wrong_is_said_in_the_terms_of_the_argument(name: str, changed: Any, message: str) -> None:
    with pytest.raises((cp.DataError, cp.ArgumentError), match=message):
        wrong(name, **changed)


@pytest.mark.slow
def test_a_compiler_sees_the_function_alone() -> None:
    compiled = torch.compile(CF.mixup, backend="eager", fullgraph=True)
    for found, wanted in zip(compiled(X, ROWS, EACH, PERM), CF.mixup(X, ROWS, EACH, PERM), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        (name, argument)
        for name, arguments in GOOD.items()
        for argument, value in arguments.items()
        if isinstance(value, torch.Tensor) and sum(isinstance(other, torch.Tensor) for other in arguments.values()) > 1
    ],
)
def test_a_tensor_on_another_device_is_named(name: str, argument: str) -> None:
    with pytest.raises(cp.DataError, match=r"lies on (cpu|meta) and|on the device of"):
        wrong(name, **{argument: GOOD[name][argument].to("meta")})


def test_draws_on_the_host_serve_inputs_on_a_device() -> None:
    inputs, targets = X.to("meta"), ROWS.to("meta")
    for lam in (0.3, torch.tensor(0.3), EACH):
        assert CF.mixup(inputs, targets, lam, PERM)[0].device.type == "meta"


def test_a_value_that_is_no_number_has_the_lowest_level() -> None:
    images = torch.tensor([[[[torch.nan, 0.0, 0.5, 1.0]]]])
    assert torch.equal(CF.equalize(images), CF.equalize(images.nan_to_num(0.0)))
    assert torch.equal(CF.posterize(images, torch.tensor([4])), CF.posterize(images.nan_to_num(0.0), torch.tensor([4])))


@pytest.mark.kind("30")
def test_limits_themselves_are_allowed() -> None:
    """An index may count from the end; each function takes both ends of its ranges."""
    ends = {"rotate": torch.tensor([-4, 3])}
    strengths = {"rotate": torch.tensor([-1e6, 1e6])}
    assert CF.trivial_augment(X, ends, strengths).shape == X.shape
    for bits in (0.0, 8.0):
        edited = CF.trivial_augment(X, {"posterize": torch.tensor([1])}, {"posterize": torch.tensor([bits])})
        assert torch.equal(edited[1] == 0, torch.full((3, 5, 6), True) if bits == 0 else X[1].mul(255).round() == 0)
    for decay, wanted in ((0, 2.0), (1, 1.0)):
        assert CF.moving_average(torch.tensor(1.0), torch.tensor(2.0), decay) == wanted
    assert CF.sam_perturbation([], [], 0.5) == []
    assert CF.select_by_loss(EACH, EACH, 4, 0.0).tolist() == [0, 1, 2, 3]
    assert CF.normalize(X, [0.5], [0.5], dtype=None).dtype == X.dtype
    assert CF.normalize(X, [0.5], [0.5], dtype=torch.float64).dtype == torch.float64
