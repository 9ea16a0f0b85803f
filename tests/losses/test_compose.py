"""Losses in a composition: what reaches them, and what is said of a loss that is given wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import counterpoint as cp
from counterpoint import DENSE, INDEX, REAL
from counterpoint.core import Terms
from counterpoint.core.check.settings import settings_of
from counterpoint.losses import FocalLoss
from counterpoint.plugins import ALGORITHMS

CLASSES = {"task": "multiclass", "num_classes": 4, "inputs": "features"}
LABELS = {"num_classes": 4, "inputs": "features"}


def faults(listed: list[object] | None = None, **settings: Any) -> tuple[cp.Fault, ...]:
    with pytest.raises(cp.CompositionError) as caught:
        cp.compose(["mixup"] if listed is None else listed, **{**CLASSES, **settings})
    return caught.value.faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "key", "value", "allowed", "meaning"),
    [
        (
            {"name": "cross_entropy", "label_smoothing": 1.5},
            "label_smoothing",
            "1.5",
            "less than or equal to 1",
            "share",
        ),
        ({"name": "cross_entropy", "weight": [1.0, -1.0]}, "weight.1", "-1.0", "greater than or equal to 0", "factor"),
        ({"name": "kl", "reduction": "none"}, "reduction", "'none'", "'batchmean', 'mean' or 'sum'", "divided by"),
        ({"name": "focal", "gamma": "2"}, "gamma", "'2'", "a valid number", "likely classes"),
    ],
)
@pytest.mark.parametrize("terms", Terms)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(
    loss: dict[str, Any], key: str, value: str, allowed: str, meaning: str, terms: Terms
) -> None:
    (fault,) = faults(loss=loss, terms=terms)
    assert fault.code == "bad-setting"
    assert f"loss ({loss['name']}): {key} is {value}; it must be " in fault.message
    assert allowed in fault.message
    assert "Input" not in str(fault)
    assert "pydantic" not in str(fault)
    assert meaning in fault.fix


def test_every_wrong_setting_is_listed() -> None:
    found = faults(loss={"name": "cross_entropy", "label_smoothing": -1, "ignore_index": 0.5, "smoothing": 0.1})
    assert [fault.code for fault in found] == ["bad-setting"] * 3
    (unknown,) = [fault for fault in found if "no setting" in fault.message]
    assert "'smoothing'; did you mean 'label_smoothing'?" in unknown.message
    assert unknown.fix == "state loss={'name': 'cross_entropy', 'label_smoothing': 0.1, 'ignore_index': 0.5}"


def test_a_name_that_is_not_registered_gets_the_nearest_and_all() -> None:
    (fault,) = faults(loss="cross_entropi")
    assert fault.code == "bad-setting"
    assert "'cross_entropi'; did you mean 'cross_entropy'?" in fault.message
    assert "loss='cross_entropy'" in fault.fix
    assert "bce, binary_focal, cross_entropy, focal, kl, l1, mse, nll" in fault.fix
    (fault,) = faults(loss={"label_smoothing": 0.1}, terms=Terms.YAML)
    assert "does not name a loss" in fault.message
    assert "`loss: cross_entropy`" in fault.fix


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss(label_smoothing=2.0), "label_smoothing is 2.0; it is a share between 0 and 1"),
        (nn.NLLLoss(reduction="maen"), "reduction is 'maen'; did you mean 'mean'?"),
        (nn.KLDivLoss(log_target=True), "log_target is True"),
        (nn.CrossEntropyLoss, "write CrossEntropyLoss()"),
    ],
)
def test_a_module_with_a_wrong_setting(loss: Any, message: str) -> None:
    (fault,) = faults(loss=loss)
    assert fault.code == "bad-setting"
    assert message in fault.message


def test_what_a_loss_is_wrongly_said_to_accept() -> None:
    (fault,) = faults(loss=lambda outputs, targets: outputs.sum(), loss_accepts={"dence"})
    assert fault.code == "bad-setting"
    assert "did you mean 'dense'?" in fault.message
    assert "loss_accepts={'continuous', 'dense', 'index', 'multi_hot'}" in fault.fix
    (fault,) = faults(loss=nn.CrossEntropyLoss(), loss_accepts={"multi_hot"}, terms=Terms.YAML)
    assert fault.code == "bad-setting"
    assert "`loss_accepts: [dense, index]`" in fault.fix


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(torch.ones(3)),
        nn.NLLLoss(torch.ones(1)),
        FocalLoss(weight=torch.ones(5)),
        {"name": "cross_entropy", "weight": [1.0, 2.0, 3.0]},
    ],
)
def test_weights_for_another_number_of_classes(loss: Any) -> None:
    (fault,) = faults(loss=loss)
    assert fault.code == "bad-setting"
    assert "and num_classes is 4" in fault.message
    assert fault.fix == "give it 4 weights, one for each class"


def test_weights_for_another_number_of_labels() -> None:
    for loss in (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), nn.BCELoss(torch.ones(5))):
        with pytest.raises(cp.CompositionError, match="num_classes is 4"):
            cp.compose(["mixup"], loss=loss, task="multilabel", **LABELS)
    for weight in (torch.ones(4), torch.ones(1), torch.tensor(2.0), torch.ones(6, 1)):
        cp.compose(["mixup"], loss=nn.BCEWithLogitsLoss(pos_weight=weight), task="multilabel", **LABELS)


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        ({"name": "nll", "weight": [1.0, 2.0, 0.5, 3.0]}, functional.nll_loss),
        ({"name": "focal", "gamma": 0.0, "weight": [1.0, 2.0, 0.5, 3.0]}, functional.nll_loss),
    ],
    ids=["nll", "focal"],
)
def test_unmixed_indices_have_torchs_loss_in_every_plan(loss: dict[str, Any], plain: Any) -> None:
    outputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    index = torch.tensor([0, 1, 2, 3, -100, 1])
    wanted = plain(outputs, index, torch.tensor(loss["weight"]))
    for algorithms in ([], [{"name": "mixup", "p": 1e-300}]):
        plan = cp.compose(algorithms, loss=loss, **CLASSES)
        _, targets = plan(torch.rand(6, 3), index, step=0)
        assert targets.is_floating_point() == bool(algorithms)
        torch.testing.assert_close(plan.loss(outputs, targets), wanted)


def test_kl_gets_dense_targets_without_any_method() -> None:
    outputs, index = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1), torch.arange(6) % 4
    plan = cp.compose([], loss="kl", **CLASSES)
    assert plan.order == ("dense_targets",)
    _, targets = plan(torch.rand(6, 3), index, step=0)
    # The divergence of a certain class is its negative log-likelihood.
    torch.testing.assert_close(plan.loss(outputs, targets), functional.nll_loss(outputs, index))
    mixed = cp.compose(["mixup"], loss="kl", **CLASSES)
    _, targets = mixed(torch.rand(6, 3), index, step=0)
    wanted = nn.KLDivLoss(reduction="batchmean")(outputs, targets)
    torch.testing.assert_close(mixed.loss(outputs, targets), wanted)


def test_absolute_error_and_focal_labels_take_mixed_targets() -> None:
    inputs, outputs = torch.rand(6, 3), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    plan = cp.compose(["mixup"], loss="l1", task="regression", inputs="features")
    _, mixed = plan(inputs, targets, step=0)
    assert not torch.equal(mixed, targets)
    torch.testing.assert_close(plan.loss(outputs, mixed), (outputs - mixed).abs().mean())
    plan = cp.compose(["mixup"], loss={"name": "binary_focal", "gamma": 0.0}, task="multilabel", **LABELS)
    _, mixed = plan(inputs, targets, step=0)
    wanted = functional.binary_cross_entropy_with_logits(outputs, mixed)
    torch.testing.assert_close(plan.loss(outputs, mixed), wanted)


def test_a_known_loss_serves_methods_that_compare_samples() -> None:
    class Largest(cp.Algorithm[None], name="largest"):
        @cp.transform(
            inputs=cp.Edit(needs=cp.CONTINUOUS, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
            targets=cp.Edit(needs=frozenset({cp.INDEX, DENSE}), acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
            sample_losses=True,
        )
        def apply(self, batch: cp.Batch, draws: None, losses: Any) -> cp.Batch:
            kept = losses().topk(2).indices.sort().values
            return batch.with_inputs(batch.inputs[kept]).with_targets(batch.targets[kept])

    inputs, index = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    plan = cp.compose([Largest()], loss=nn.CrossEntropyLoss(), **CLASSES)
    engine = cp.Engine(plan, model=nn.Identity())
    losses: Tensor = functional.cross_entropy(inputs, index, reduction="none")
    with engine.fit(), engine.epoch(), engine.batch(inputs, index) as batch:
        assert torch.equal(batch.inputs, inputs[losses.topk(2).indices.sort().values])


@pytest.mark.kind("28")
@pytest.mark.parametrize("stated", [None, {"dense", "index"}])
def test_a_fix_leaves_out_only_what_was_stated(stated: set[str] | None) -> None:
    facts = {"task": "regression", "num_classes": None, "inputs": "features", "loss_accepts": stated}
    loss = nn.CrossEntropyLoss() if stated is None else lambda outputs, targets: (outputs - targets).mean()
    found = {fault.code: fault.fix for fault in faults(loss=loss, **facts)}
    assert found["loss-targets"].count("state loss='l1'") == 1
    assert ("leave loss_accepts out" in found["loss-targets"]) is (stated is not None)


@pytest.mark.kind("28")
@pytest.mark.parametrize("terms", Terms)
def test_a_setting_that_is_missing_is_said_to_be_missing(terms: Terms) -> None:
    with pytest.raises(cp.CompositionError) as caught:
        cp.compose(["normalize"], loss="cross_entropy", terms=terms, **CLASSES)
    messages = [fault.message.partition(": ")[2] for fault in caught.value.faults if fault.code == "bad-setting"]
    assert messages == ["mean is missing", "std is missing"]


@pytest.mark.kind("28")
@pytest.mark.parametrize("name", ["normalize", "manifold_mixup", "one_of"])
def test_the_fix_of_a_missing_setting_says_what_to_give(name: str) -> None:
    for key, setting in settings_of(ALGORITHMS.load(name)).items():
        if setting.default is None:
            (fault,) = [fault for fault in faults([name], loss=None) if f" {key} is missing" in fault.message]
            assert f"give {key}, {setting.allowed}: {setting.description}" in fault.fix


@pytest.mark.kind("8")
@pytest.mark.kind("28")
@pytest.mark.parametrize("loss", [nn.HuberLoss(), lambda outputs, targets: (outputs - targets).mean()])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_loss_of_ones_own_is_described_by_its_caller(loss: Callable[..., Tensor], task: str) -> None:
    (fault,) = faults(["ema"], loss=loss, task=task)
    assert fault.code == "loss-unknown"
    assert "build" not in fault.fix
    assert "loss_accepts" in fault.fix
    assert "pass a counterpoint.LossSpec" in fault.fix
    spec = cp.LossSpec("own", loss, accepts=frozenset({INDEX if task == "multiclass" else REAL}))
    assert cp.compose(["ema"], loss=spec, task=task)
