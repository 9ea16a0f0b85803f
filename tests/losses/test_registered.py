from __future__ import annotations

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from counterpoint import DENSE, INDEX, MULTI_HOT, REAL, LossSpec
from counterpoint.losses import (
    BinaryCrossEntropy,
    BinaryFocal,
    BinaryFocalLoss,
    CrossEntropy,
    Focal,
    FocalLoss,
    KLDivergence,
    MeanAbsoluteError,
    MeanSquaredError,
    NegativeLogLikelihood,
    resolve_loss,
)
from counterpoint.plugins import LOSSES

NAMES = {
    "bce": BinaryCrossEntropy,
    "binary_focal": BinaryFocal,
    "cross_entropy": CrossEntropy,
    "focal": Focal,
    "kl": KLDivergence,
    "l1": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "nll": NegativeLogLikelihood,
}
"""The names that configs rely on; a new loss needs no line here."""
CLASSES = tuple(LOSSES.load(entry.name) for entry in LOSSES.entries() if entry.package == "counterpoint")


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_the_losses(name: str) -> None:
    assert LOSSES.load(name) is NAMES[name]


def test_cross_entropy_is_built_as_written() -> None:
    settings = {"weight": [1, 0.5, 0], "ignore_index": 255, "label_smoothing": 0.1, "reduction": "sum"}
    loss = CrossEntropy.model_validate(settings).build()
    assert type(loss) is nn.CrossEntropyLoss
    assert loss.weight.tolist() == [1.0, 0.5, 0.0]
    assert (loss.ignore_index, loss.label_smoothing, loss.reduction) == (255, 0.1, "sum")


def test_binary_cross_entropy_is_built_as_written() -> None:
    settings = {"weight": [1.0, 2.0], "pos_weight": [3.0, 4.0], "reduction": "sum"}
    loss = BinaryCrossEntropy.model_validate(settings).build()
    assert type(loss) is nn.BCEWithLogitsLoss
    assert (loss.weight.tolist(), loss.pos_weight.tolist()) == ([1.0, 2.0], [3.0, 4.0])
    assert loss.reduction == "sum"


@pytest.mark.parametrize(
    ("config", "module"),
    [(MeanSquaredError, nn.MSELoss), (MeanAbsoluteError, nn.L1Loss), (KLDivergence, nn.KLDivLoss)],
)
def test_losses_with_a_reduction_only_are_built_as_written(config: type[BaseModel], module: type[nn.Module]) -> None:
    loss = config(reduction="sum").build()
    assert type(loss) is module
    assert loss.reduction == "sum"


@pytest.mark.parametrize(("config", "module"), [(NegativeLogLikelihood, nn.NLLLoss), (Focal, FocalLoss)])
def test_losses_over_classes_are_built_as_written(config: type[BaseModel], module: type[nn.Module]) -> None:
    loss = config.model_validate({"weight": [1, 0.5], "ignore_index": 255, "reduction": "sum"}).build()
    assert type(loss) is module
    assert torch.equal(loss.weight, torch.tensor([1.0, 0.5]))
    assert (loss.ignore_index, loss.reduction) == (255, "sum")


def test_focal_losses_are_built_as_written() -> None:
    loss = BinaryFocal(gamma=1.5, alpha=0.25, reduction="sum").build()
    assert type(loss) is BinaryFocalLoss
    assert (loss.gamma, loss.alpha, loss.reduction) == (1.5, 0.25, "sum")
    assert Focal(gamma=1.5).build().gamma == 1.5


def test_the_default_of_kl_is_the_divergence_itself() -> None:
    assert KLDivergence().build().reduction == "batchmean"


@pytest.mark.parametrize("config", CLASSES)
def test_the_defaults_are_those_of_torch_and_known(config: type[BaseModel]) -> None:
    loss = config().build()
    plain = type(loss)()
    assert vars(loss).keys() == vars(plain).keys()
    assert loss.extra_repr() == plain.extra_repr()
    assert loss.reduction == {KLDivergence: "batchmean"}.get(config, plain.reduction)
    assert loss.state_dict() == plain.state_dict() == {}


OUTPUTS = torch.tensor([[0.5, -1.0, 2.0], [0.0, 1.5, -0.5]], dtype=torch.float64)
SIGMOID = 1 / (1 + torch.exp(-OUTPUTS))
HOT = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
DENSE_ROWS = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)
LOG_SOFTMAX = OUTPUTS - OUTPUTS.exp().sum(1, keepdim=True).log()
PICKED = LOG_SOFTMAX[[0, 1], [2, 1]]
ROOT = torch.where(HOT > 0, SIGMOID, 1 - SIGMOID)

# What each loss accepts, targets for it, and its value by hand.
BY_HAND = {
    CrossEntropy: ({INDEX, DENSE}, torch.tensor([2, 1]), -PICKED.mean()),
    NegativeLogLikelihood: ({INDEX, DENSE}, torch.tensor([2, 1]), -OUTPUTS[[0, 1], [2, 1]].mean()),
    Focal: ({INDEX, DENSE}, torch.tensor([2, 1]), -((1 - PICKED.exp()) ** 2 * PICKED).mean()),
    BinaryCrossEntropy: ({MULTI_HOT}, HOT, -ROOT.log().mean()),
    BinaryFocal: ({MULTI_HOT}, HOT, -((1 - ROOT) ** 2 * ROOT.log()).mean()),
    KLDivergence: ({DENSE}, DENSE_ROWS, (torch.xlogy(DENSE_ROWS, DENSE_ROWS) - DENSE_ROWS * OUTPUTS).sum() / 2),
    MeanSquaredError: ({REAL}, HOT, (OUTPUTS - HOT).square().mean()),
    MeanAbsoluteError: ({REAL}, HOT, (OUTPUTS - HOT).abs().mean()),
}


@pytest.mark.kind("30")
@pytest.mark.parametrize("config", CLASSES)
def test_the_defaults_give_the_number_worked_out_by_hand(config: type[BaseModel]) -> None:
    assert config in BY_HAND, f"add what {config.__name__} accepts and its value by hand to BY_HAND"
    accepts, targets, value = BY_HAND[config]
    loss = config().build()
    spec = resolve_loss(loss)
    assert isinstance(spec, LossSpec)
    assert spec.accepts >= accepts
    torch.testing.assert_close(loss(OUTPUTS, targets), value)
    torch.testing.assert_close(spec.function(OUTPUTS, targets), value)


@pytest.mark.parametrize(
    ("config", "settings", "key"),
    [
        (CrossEntropy, {"label_smoothing": 1.5}, "label_smoothing"),
        (CrossEntropy, {"label_smoothing": -0.1}, "label_smoothing"),
        (CrossEntropy, {"label_smoothing": float("nan")}, "label_smoothing"),
        (CrossEntropy, {"label_smoothing": "0.1"}, "label_smoothing"),
        (CrossEntropy, {"label_smoothing": True}, "label_smoothing"),
        (CrossEntropy, {"weight": [1.0, -1.0]}, "weight"),
        (CrossEntropy, {"weight": [1.0, float("inf")]}, "weight"),
        (CrossEntropy, {"weight": [1.0, float("nan")]}, "weight"),
        (CrossEntropy, {"weight": ["1.0"]}, "weight"),
        (CrossEntropy, {"weight": [True]}, "weight"),
        (CrossEntropy, {"weight": []}, "weight"),
        (CrossEntropy, {"weight": 1.0}, "weight"),
        (CrossEntropy, {"weight": "12"}, "weight"),
        (CrossEntropy, {"ignore_index": 1.0}, "ignore_index"),
        (CrossEntropy, {"ignore_index": None}, "ignore_index"),
        (CrossEntropy, {"reduction": "none"}, "reduction"),
        (CrossEntropy, {"smoothing": 0.1}, "smoothing"),
        (BinaryCrossEntropy, {"pos_weight": [-1.0]}, "pos_weight"),
        (BinaryCrossEntropy, {"label_smoothing": 0.1}, "label_smoothing"),
        (MeanSquaredError, {"reduction": "average"}, "reduction"),
        (MeanSquaredError, {"weight": [1.0]}, "weight"),
        (MeanAbsoluteError, {"reduction": "batchmean"}, "reduction"),
        (KLDivergence, {"reduction": "none"}, "reduction"),
        (KLDivergence, {"log_target": True}, "log_target"),
        (NegativeLogLikelihood, {"weight": [-1.0]}, "weight"),
        (NegativeLogLikelihood, {"label_smoothing": 0.1}, "label_smoothing"),
        (Focal, {"gamma": -1.0}, "gamma"),
        (Focal, {"gamma": float("inf")}, "gamma"),
        (Focal, {"alpha": 0.25}, "alpha"),
        (BinaryFocal, {"alpha": 1.5}, "alpha"),
    ],
)
def test_wrong_settings_are_refused_by_key(config: type[BaseModel], settings: dict[str, object], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config.model_validate(settings)
    assert {error["loc"][0] for error in caught.value.errors()} == {key}


@pytest.mark.parametrize("config", CLASSES)
def test_settings_are_frozen(config: type[BaseModel]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().reduction = "sum"


@pytest.mark.parametrize("config", CLASSES)
def test_every_setting_is_described(config: type[BaseModel]) -> None:
    schema = config.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]
    assert all(setting["description"] for setting in schema["properties"].values())


@pytest.mark.kind("30")
@pytest.mark.parametrize("settings", CLASSES)
def test_each_setting_says_what_it_is(settings: type[BaseModel]) -> None:
    own = {name: field.description for name, field in settings.model_fields.items() if name != "name"}
    assert all(own.values()), own


@pytest.mark.kind("30")
@pytest.mark.parametrize("settings", [CrossEntropy, NegativeLogLikelihood])
def test_ignored_indices_are_whole_numbers_of_64_bits(settings: type[BaseModel]) -> None:
    """The limits are those of torch.int64, found by the type itself."""
    limits = torch.iinfo(torch.int64)
    for index in (limits.min, -101, limits.max):
        assert settings.model_validate({"ignore_index": index}).model_dump()["ignore_index"] == index
    for index in (limits.min - 1, limits.max + 1):
        with pytest.raises(ValidationError, match="ignore_index"):
            settings.model_validate({"ignore_index": index})


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (settings, key)
        for settings in CLASSES
        for key in ("weight", "alpha", "pos_weight", "label_smoothing", "gamma")
        if key in settings.model_fields
    ],
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_settings_are_finite(settings: type[BaseModel], key: str, value: float) -> None:
    for given in (value, [1.0, value]):
        with pytest.raises(ValidationError, match=key):
            settings.model_validate({key: given})


WEIGHT = ("weight", [0.0, 1e12], [-1e-9, 1.0001e12])
LIMITS = {
    CrossEntropy: [("label_smoothing", [0.0, 1.0], [-1e-9, 1.0001]), WEIGHT],
    BinaryCrossEntropy: [
        ("target_threshold", [0.0, 0.9999], [-1e-9, 1.0]),
        WEIGHT,
        ("pos_weight", *WEIGHT[1:]),
    ],
    NegativeLogLikelihood: [WEIGHT],
    Focal: [("gamma", [0.0, 1e3], [-1e-9, 1.0001e3]), WEIGHT],
    BinaryFocal: [("gamma", [0.0, 1e3], [-1e-9, 1.0001e3]), ("alpha", [0.0, 1.0], [-1e-9, 1.0001])],
}


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("settings", "key", "inside", "outside"),
    [(settings, *limits) for settings, rows in LIMITS.items() for limits in rows],
)
def test_limits_are_inside_or_outside_as_said(
    settings: type[BaseModel], key: str, inside: list[float], outside: list[float]
) -> None:
    for number in inside:
        given = [number] if "weight" in key else number
        assert settings.model_validate({key: given}).model_dump()[key] == ((number,) if "weight" in key else number)
    for number in outside:
        with pytest.raises(ValidationError, match=key):
            settings.model_validate({key: [number] if "weight" in key else number})


@pytest.mark.kind("30")
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_a_threshold_builds_its_own_loss_with_every_setting(threshold: float) -> None:
    settings = {"weight": [1.0, 2.0], "pos_weight": [3.0, 4.0], "reduction": "sum", "target_threshold": threshold}
    loss = BinaryCrossEntropy.model_validate(settings).build()
    outputs, targets = torch.tensor([[0.5, -1.0], [2.0, 0.0]]), torch.tensor([[0.1, 0.9], [0.0, 0.3]])
    hot = torch.tensor([[threshold < 0.1, True], [False, True]])
    p = torch.sigmoid(outputs)
    losses = torch.where(hot, -torch.tensor([3.0, 4.0]) * p.log(), -(1 - p).log()) * torch.tensor([1.0, 2.0])
    torch.testing.assert_close(loss(outputs, targets), losses.sum())
