from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import counterpoint.losses
from counterpoint import DENSE, IMAGE, INDEX, MULTI_HOT, REAL, SMOOTHING, ConfigError, Field, Kind, LossSpec
from counterpoint.losses import BinaryFocalLoss, FocalLoss, binary_focal_loss, focal_loss, resolve_loss
from counterpoint.losses.cross_entropy import cross_entropy
from counterpoint.losses.known import KnownLoss
from counterpoint.losses.resolve import known_losses
from counterpoint.plugins import LOSSES
from tests.losses import naive


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().mean()


class OwnLoss(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return own_loss(outputs, targets)

    def method(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return own_loss(outputs, targets)


class Weighted(nn.CrossEntropyLoss):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * super().forward(outputs, targets)


class Unhashable:
    __hash__ = None

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return own_loss(outputs, targets)


@pytest.mark.parametrize(
    ("loss", "accepts"),
    [
        (nn.CrossEntropyLoss(), {INDEX, DENSE}),
        (functional.cross_entropy, {INDEX, DENSE}),
        (cross_entropy, {INDEX, DENSE}),
        (nn.BCEWithLogitsLoss(), {MULTI_HOT}),
        (functional.binary_cross_entropy_with_logits, {MULTI_HOT}),
        (nn.BCELoss(), {MULTI_HOT}),
        (functional.binary_cross_entropy, {MULTI_HOT}),
        (nn.MSELoss(), {REAL}),
        (functional.mse_loss, {REAL}),
        (nn.NLLLoss(), {INDEX, DENSE}),
        (functional.nll_loss, {INDEX, DENSE}),
        (nn.KLDivLoss(), {DENSE}),
        (functional.kl_div, {DENSE}),
        (nn.L1Loss(), {REAL}),
        (functional.l1_loss, {REAL}),
        (FocalLoss(), {INDEX, DENSE}),
        (functools.partial(focal_loss, gamma=1.0), {INDEX, DENSE}),
        (BinaryFocalLoss(), {MULTI_HOT}),
        (binary_focal_loss, {MULTI_HOT}),
    ],
)
def test_known_losses(loss: Callable[..., Tensor], accepts: set[Kind]) -> None:
    spec = resolve_loss(loss)
    assert spec is not None
    assert spec.accepts == accepts


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(ignore_index=1), torch.tensor([0, 1, 2, 1, 0, 0])),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0])), torch.tensor([0, 1, 2, 1, 0, 0])),
        (nn.NLLLoss(torch.tensor([1.0, 2.0, 5.0])), torch.tensor([0, 1, 2, 1, 0, 0])),
        (nn.BCEWithLogitsLoss(), torch.eye(6, 3)),
        (nn.KLDivLoss(reduction="batchmean"), torch.full((6, 3), 1 / 3)),
        (nn.MSELoss(), torch.eye(6, 3)),
        (nn.L1Loss(), torch.eye(6, 3)),
        (FocalLoss(), torch.tensor([0, 1, 2, 1, 0, 0])),
        (BinaryFocalLoss(), torch.eye(6, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_the_parts_of_a_batch_add_up_by_the_denominator(loss: nn.Module, targets: Tensor) -> None:
    spec = resolve_loss(loss)
    assert spec is not None
    assert spec.denominator is not None
    outputs = torch.linspace(-2, 1, 18).reshape(6, 3)
    parts = zip(outputs.split((1, 5)), targets.split((1, 5)), strict=True)
    total = sum(loss(part, wanted) * spec.denominator(wanted) for part, wanted in parts)
    torch.testing.assert_close(total / spec.denominator(targets), loss(outputs, targets))


def test_a_partial_of_a_known_function_keeps_its_settings() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    indices = torch.tensor([0, 2, 1, 2])
    settings = {
        "weight": torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64),
        "ignore_index": 1,
        "label_smoothing": 0.1,
        "reduction": "sum",
    }
    spec = resolve_loss(functools.partial(functional.cross_entropy, **settings))
    assert spec is not None
    assert spec.ignore_index == 1
    assert spec.claims == (SMOOTHING.of(0.1),)
    assert spec.denominator is None
    wanted = functional.cross_entropy(logits, indices, **settings)
    torch.testing.assert_close(spec.function(logits, naive.dense_rows(indices, 3, 1)), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        own_loss,
        OwnLoss(),
        OwnLoss().method,
        Weighted(label_smoothing=0.1),
        Unhashable(),
        nn.SmoothL1Loss(),
        functional.smooth_l1_loss,
        functools.partial(own_loss),
        functools.partial(functional.mse_loss, weight=torch.ones(3)),  # the module has no such setting
        functools.partial(functional.mse_loss, torch.ones(3)),  # the outputs are bound already
    ],
)
def test_unknown_losses_need_the_users_word(loss: Callable[..., Tensor]) -> None:
    assert resolve_loss(loss) is None
    spec = resolve_loss(loss, accepts=["continuous"])
    assert spec is not None
    assert spec.function is loss
    assert spec.accepts == {REAL}
    assert spec.claims == ()


def test_a_mean_over_samples_is_assumed_of_an_unknown_loss() -> None:
    spec = resolve_loss(own_loss, accepts={"continuous"})
    assert spec is not None
    assert spec.denominator is not None
    assert spec.denominator(torch.zeros(6, 2)) == 6.0
    outputs, targets = torch.arange(12.0).reshape(6, 2), torch.zeros(6, 2)
    shares = [
        spec.function(o, t) * len(t) / 6 for o, t in zip(outputs.split((1, 5)), targets.split((1, 5)), strict=True)
    ]
    torch.testing.assert_close(torch.stack(shares).sum(), spec.function(outputs, targets))


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (own_loss, "own_loss"),
        (functools.partial(own_loss), "own_loss"),
        (OwnLoss(), "OwnLoss"),
        (OwnLoss().method, "OwnLoss.method"),
        (Unhashable(), "Unhashable"),
        (nn.SmoothL1Loss(), "SmoothL1Loss"),
    ],
)
def test_an_unknown_loss_is_named_by_where_it_is_defined(loss: Callable[..., Tensor], name: str) -> None:
    module = "torch.nn.modules.loss" if name == "SmoothL1Loss" else own_loss.__module__
    spec = resolve_loss(loss, accepts={"continuous"})
    assert spec is not None
    assert spec.name == f"{module}.{name}"


def test_kinds_are_open() -> None:
    boxes = Kind("boxes", Field.TARGETS)
    spec = resolve_loss(own_loss, accepts=[boxes, "dense", DENSE])
    assert spec is not None
    assert spec.accepts == {boxes, DENSE}


def test_a_description_passes_through() -> None:
    spec = LossSpec("own", own_loss, frozenset({INDEX, REAL}))
    assert resolve_loss(spec) is spec
    narrowed = resolve_loss(spec, accepts={"index"})
    assert narrowed == LossSpec("own", own_loss, frozenset({INDEX}))


def test_a_known_loss_can_be_narrowed_but_not_widened() -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=255)
    narrowed = resolve_loss(loss, accepts={"dense"})
    assert narrowed is not None
    assert narrowed.accepts == {DENSE}
    assert narrowed.claims == (SMOOTHING.of(0.1),)
    assert narrowed.ignore_index == 255
    with pytest.raises(ConfigError, match="names multi_hot, but CrossEntropyLoss is right for dense, index only"):
        resolve_loss(loss, accepts={"dense", "multi_hot"})
    with pytest.raises(ConfigError, match="wrap it"):
        resolve_loss(functional.mse_loss, accepts={"dense"})


@pytest.mark.parametrize(
    ("accepts", "message"),
    [
        ({"dence"}, "did you mean 'dense'"),
        ({"image"}, "'image', which is no kind of target"),
        ({IMAGE}, "'image', a kind of inputs"),
        ("dense", r"the text 'dense'; it is a set of kinds: write \{'dense'\}"),
        (set(), "empty"),
        ([3], "3, which is no kind of target"),
        ([None], "None, which is no kind of target"),
    ],
)
@pytest.mark.parametrize("loss", [own_loss, nn.CrossEntropyLoss()], ids=["own", "known"])
def test_what_is_no_kind_of_target_is_refused(loss: Callable[..., Tensor], accepts: set[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_loss(loss, accepts=accepts)


@pytest.mark.parametrize("accepts", [None, {"dense"}])
def test_what_is_no_loss_is_refused(accepts: set[str] | None) -> None:
    with pytest.raises(ConfigError, match=r"write CrossEntropyLoss\(\)"):
        resolve_loss(nn.CrossEntropyLoss, accepts=accepts)
    with pytest.raises(ConfigError, match="'cross_entropy'; give a module"):
        resolve_loss("cross_entropy", accepts=accepts)


def test_the_public_names_are_exact() -> None:
    names = counterpoint.losses.__all__
    assert len({*names}) == len(names)
    assert {*names} == {*dir(counterpoint.losses)}
    for name in names:
        held = getattr(counterpoint.losses, name)
        own = getattr(counterpoint.losses.outputs, name, None)
        assert held is own if own is not None else name == "Loss" or held.__name__ == name


@pytest.mark.kind("30")
@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError])
def test_settings_that_a_module_refuses_are_a_fault(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: nn.Module, weight: object = None) -> None:
        raise error("no such weight")

    monkeypatch.setattr(nn.CrossEntropyLoss, "__init__", refuse)
    loss = functools.partial(nn.functional.cross_entropy, weight=3)
    with pytest.raises(ConfigError, match=r"cross_entropy cannot have the settings .*weight.*: no such weight"):
        resolve_loss(loss)


ROWS = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
HALVES = torch.tensor([[1.0, 0.0], [0.25, 0.75]])


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (functional.mse_loss, ((ROWS - HALVES) ** 2).mean()),
        (functional.l1_loss, (ROWS - HALVES).abs().mean()),
        (functional.binary_cross_entropy, -(HALVES * ROWS.log() + (1 - HALVES) * (1 - ROWS).log()).mean()),
        (functional.nll_loss, -(HALVES * ROWS).sum() / 2),
        (functional.kl_div, (torch.xlogy(HALVES, HALVES) - HALVES * ROWS).mean()),
    ],
)
def test_a_function_of_torch_gives_its_own_number(function: Callable[..., Tensor], wanted: Tensor) -> None:
    spec = resolve_loss(function)
    assert spec is not None
    torch.testing.assert_close(spec.function(ROWS, HALVES), wanted)


BUILT = {nn.CrossEntropyLoss, nn.NLLLoss, nn.KLDivLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.MSELoss, nn.L1Loss}


@pytest.mark.parametrize("known", known_losses().values(), ids=lambda known: known.module.__name__)
def test_each_known_loss_says_what_the_documentation_lists(known: KnownLoss) -> None:
    assert all((known.formula, known.mixed, known.refused))
    assert known.settings or known.module in BUILT
    parameters = inspect.signature(known.module).parameters
    assert {*known.settings, *known.weights, "reduction"} <= parameters.keys()
    assert known_losses()[known.module] is known


def test_every_module_that_a_registered_loss_can_build_is_known() -> None:
    for entry in LOSSES.entries():
        if entry.package == "counterpoint":
            settings = LOSSES.load(entry.name)
            assert {settings.module, type(settings().build())} <= known_losses().keys(), entry
    assert known_losses().keys() > BUILT
