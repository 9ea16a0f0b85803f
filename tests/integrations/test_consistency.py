"""What is stated to the plan and again to the loop or the model is compared in every loop, and a difference refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint.integrations.accelerate import AcceleratedSteps
from counterpoint.integrations.criterion import compare_losses
from counterpoint.integrations.lightning import CounterpointCallback
from tests.integrations import hf, recipe
from tests.integrations.lit import QUIET, Module, compose, loader, make_trainer

pytestmark = [QUIET, pytest.mark.kind("7a")]

C = recipe.CLASSES
WeightAveraging = getattr(pl.callbacks, "WeightAveraging", None)
AVERAGING = [StochasticWeightAveraging(0.1), *([WeightAveraging()] if WeightAveraging else [])]
"""Lightning's own; the second came with a later version than the first that is supported."""
needs_weight_averaging = pytest.mark.skipif(WeightAveraging is None, reason="this Lightning has none")


def fit(
    plan: cp.Plan, module: Module, *others: pl.Callback, criterion: str | None = "criterion", **settings: Any
) -> Any:
    callback = CounterpointCallback(plan, criterion=criterion)
    make_trainer(callback, *others, **settings).fit(module, loader())
    return callback


def with_criterion(loss: nn.Module) -> Module:
    module = Module()
    module.criterion = loss
    return module


def lightning_faults(plan: cp.Plan, module: Module, *others: pl.Callback, **settings: Any) -> list[cp.Fault]:
    with pytest.raises(cp.CompositionError) as caught:
        fit(plan, module, *others, **settings)
    return list(caught.value.faults)


class OwnCrossEntropy(nn.Module):
    """Cross-entropy as one writes it oneself."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        rows = targets if targets.is_floating_point() else nn.functional.one_hot(targets.clamp(0), C)
        counted = (targets != -100).float().unsqueeze(1) if not targets.is_floating_point() else torch.ones(1)
        return self.factor * -(rows * counted * outputs.log_softmax(1)).sum() / (rows * counted).sum()


class OnlyDense(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -(targets * outputs.log_softmax(1)).sum(1).mean()


OTHER_LOSSES = {
    "weight": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 1.0, 2.0])),
    "smoothing": nn.CrossEntropyLoss(label_smoothing=0.5),
    "ignored": nn.CrossEntropyLoss(ignore_index=2),
    "ignored-outside": nn.CrossEntropyLoss(ignore_index=-1),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "none": nn.CrossEntropyLoss(reduction="none"),
    "margin": nn.MultiMarginLoss(),
    "bce": nn.BCEWithLogitsLoss(),
    "own": OwnCrossEntropy(0.5),
}


class TestLosses:
    @pytest.mark.slow
    @pytest.mark.parametrize("criterion", ["criterion", None])
    @pytest.mark.parametrize("loss", OTHER_LOSSES.values(), ids=OTHER_LOSSES)
    def test_lightning_refuses_another_criterion(self, loss: nn.Module, criterion: str | None) -> None:
        if criterion is None and isinstance(loss, OwnCrossEntropy):
            return  # nothing shows that it is a loss
        (fault,) = lightning_faults(compose("cutout"), with_criterion(loss), criterion=criterion)
        assert fault.code == "loop-limit"
        assert "CrossEntropyLoss" in fault.message
        assert "model has criterion = " in fault.message
        assert "compose(..., loss=model.criterion)" in fault.fix

    @pytest.mark.slow
    @pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), OwnCrossEntropy(), OnlyDense()])
    def test_lightning_takes_one_that_computes_the_same(self, loss: nn.Module) -> None:
        assert fit(compose("mixup"), with_criterion(loss)).engine.batches == recipe.STEPS

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["weight", "smoothing", "ignored"])
    def test_the_fix_works(self, name: str) -> None:
        module = with_criterion(OTHER_LOSSES[name])
        fit(compose("mixup", loss=module.criterion), module)

    @pytest.mark.slow
    def test_a_plan_without_a_loss_takes_the_criterion(self) -> None:
        weighted = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, C))
        module, other = with_criterion(weighted), with_criterion(weighted)
        callback = fit(compose("mixup", loss=None), module)
        fit(compose("mixup", loss=weighted), other)
        assert callback.plan.loss_spec.name == "CrossEntropyLoss"
        assert callback.plan.order == ("dense_targets", "mixup")
        assert torch.equal(module.net[1].weight, other.net[1].weight)
        plain = with_criterion(nn.CrossEntropyLoss())
        fit(compose("mixup"), plain)
        assert not torch.equal(module.net[1].weight, plain.net[1].weight)

    def test_a_criterion_that_the_targets_do_not_fit_is_refused(self) -> None:
        (fault,) = lightning_faults(compose("mixup", loss=None), with_criterion(nn.MultiMarginLoss()))
        assert fault.code == "loss-unknown"

    def test_a_loss_that_is_not_used_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        class Functional(Module):
            def __init__(self) -> None:
                super().__init__()
                del self.criterion

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return nn.functional.cross_entropy(self(batch[0]), batch[1])

        fit(compose("cutout"), Functional(), criterion=None)
        assert "the plan's loss, CrossEntropyLoss, is not used" in caplog.text

    @pytest.mark.parametrize("loop", ["accelerate", "transformers"])
    def test_a_loss_inside_the_model_is_compared(self, loop: str, tmp_path: Path) -> None:
        model = hf.net()
        model.add_module("criterion", nn.MultiMarginLoss())
        (fault,) = LOOPS[loop](compose("cutout"), model, tmp_path)
        assert "model has criterion = MultiMarginLoss()" in fault.message

    @pytest.mark.slow
    @given(
        st.lists(
            st.tuples(
                st.one_of(st.none(), st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=C, max_size=C)),
                st.sampled_from([0.0, 0.05, 0.3]),
                st.sampled_from([-100, 0, 3]),
                st.sampled_from(["mean", "sum"]),
            ),
            min_size=2,
            max_size=2,
        )
    )
    def test_two_settings_of_cross_entropy_agree_where_they_are_equal(self, settings: list[Any]) -> None:
        one, other = (
            nn.CrossEntropyLoss(
                weight=None if weight is None else torch.tensor(weight),
                label_smoothing=smoothing,
                ignore_index=ignored,
                reduction=reduction,
            )
            for weight, smoothing, ignored, reduction in settings
        )
        found = list(compare_losses(compose("cutout", loss=one), {"criterion": other}))
        if settings[0] == settings[1]:
            assert found == []
        elif _differ(one, other):
            assert len(found) == 1

    @pytest.mark.parametrize("classes", [2, 10, 300, 1000])
    def test_one_weight_of_many_is_seen(self, classes: int) -> None:
        for changed in (0, classes // 2, classes - 1):
            weight = torch.ones(classes)
            weight[changed] = 1.5
            plan = compose("cutout", num_classes=classes)
            assert len(list(compare_losses(plan, {"loss": nn.CrossEntropyLoss(weight)}))) == 1

    @pytest.mark.parametrize(
        ("task", "same", "other"),
        [
            ("multilabel", nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 1, 1, 2]))),
            ("regression", nn.MSELoss(), nn.L1Loss()),
            ("regression", nn.MSELoss(), nn.SmoothL1Loss()),
            ("segmentation", nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1, 1, 2]))),
        ],
    )
    def test_every_task_is_probed(self, task: str, same: nn.Module, other: nn.Module) -> None:
        plan = compose(task=task, loss=type(same)())
        assert list(compare_losses(plan, {"loss": same})) == []
        (fault,) = compare_losses(plan, {"loss": other})
        assert type(other).__name__ in fault.message

    def test_nothing_is_left_changed(self) -> None:
        class Counts(OwnCrossEntropy):
            calls = 0

            def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
                self.calls += 1
                torch.rand(1)
                return super().forward(outputs, targets)

        loss, before = Counts(), torch.get_rng_state()
        assert list(compare_losses(compose("cutout"), {"loss": loss})) == []
        assert loss.calls == 0
        assert torch.equal(torch.get_rng_state(), before)


def _differ(one: nn.Module, other: nn.Module) -> bool:
    outputs, targets = torch.randn(64, C, generator=torch.Generator().manual_seed(1)), torch.arange(64) % C
    return not torch.allclose(one(outputs, targets), other(outputs, targets), rtol=1e-3)


def accelerate_faults(plan: cp.Plan, model: nn.Module, folder: Path, **settings: Any) -> list[cp.Fault]:
    accelerator = Accelerator(cpu=True, **settings)
    engine = cp.Engine(plan, model=model, optimizer=recipe.optimizer(model))
    with pytest.raises(cp.CompositionError) as caught:
        AcceleratedSteps(engine, accelerator, model)
    return list(caught.value.faults)


def transformers_faults(plan: cp.Plan, model: nn.Module, folder: Path, **settings: Any) -> list[cp.Fault]:
    with pytest.raises(cp.CompositionError) as caught:
        hf.trainer(folder, plan, model, **settings)
    return list(caught.value.faults)


LOOPS: Mapping[str, Callable[..., list[cp.Fault]]] = {
    "accelerate": accelerate_faults,
    "transformers": transformers_faults,
}


class TestClasses:
    def test_in_lightning(self) -> None:
        class Stating(Module):
            num_classes = 7

        class Saving(Module):
            def __init__(self) -> None:
                super().__init__()
                self.save_hyperparameters({"num_classes": 5})

        (fault,) = lightning_faults(compose("cutout"), Stating())
        assert fault.message == "the plan has num_classes=4, and self.num_classes is 7"
        (fault,) = lightning_faults(compose("cutout"), Saving())
        assert "self.hparams.num_classes is 5" in fault.message

    @pytest.mark.parametrize("loop", LOOPS)
    def test_in_the_config_of_a_model(self, loop: str, tmp_path: Path) -> None:
        model = hf.net()
        model.config = SimpleNamespace(num_labels=9, problem_type=None)
        (fault,) = LOOPS[loop](compose("cutout"), model, tmp_path)
        assert "model.config.num_labels is 9" in fault.message

    def test_the_problem_of_a_model_is_the_task(self, tmp_path: Path) -> None:
        model = hf.net()
        model.config = SimpleNamespace(num_labels=C, problem_type="multi_label_classification")
        (fault,) = transformers_faults(compose("cutout"), model, tmp_path)
        assert "the plan's task is multiclass" in fault.message
        model.config.problem_type = "single_label_classification"
        hf.trainer(tmp_path, compose("cutout"), model)


class TestAverages:
    @pytest.mark.parametrize("method", ["ema", "swa"])
    @pytest.mark.parametrize("other", AVERAGING)
    def test_lightnings_own_beside_the_plans(self, other: pl.Callback, method: str) -> None:
        (fault,) = lightning_faults(compose({"name": method, "start": "2ba"}), Module(), other)
        assert fault.message == f"{method} averages the weights for evaluation, and so does {type(other).__name__}"
        assert fault.algorithms == (method,)

    @pytest.mark.parametrize("loop", LOOPS)
    def test_one_inside_the_model(self, loop: str, tmp_path: Path) -> None:
        model = hf.net()
        model.add_module("average", AveragedModel(recipe.model()))
        (fault,) = LOOPS[loop](compose("ema"), model, tmp_path)
        assert fault.message == "ema averages the weights for evaluation, and so does the module 'average'"

    @pytest.mark.slow
    @needs_weight_averaging
    @pytest.mark.kind("7e")
    @pytest.mark.parametrize("first", [True, False])
    def test_lightnings_own_is_taken_where_the_plan_has_none(self, first: bool) -> None:
        callback, other = CounterpointCallback(compose("mixup"), criterion="criterion"), WeightAveraging()
        module = Module()
        make_trainer(*((other, callback) if first else (callback, other))).fit(module, loader())
        assert callback.engine.batches == recipe.STEPS
        # What is averaged: the weights after each step, the first included.
        steps = Module()
        averaged = AveragedModel(steps)
        make_trainer(CounterpointCallback(compose("mixup"), criterion="criterion"), Averages(averaged)).fit(
            steps, loader()
        )
        assert torch.equal(module.net[1].weight, averaged.module.net[1].weight)

    @needs_weight_averaging
    def test_surgery_beside_one_that_copied_the_model(self) -> None:
        class Replaces(cp.Algorithm[None], name="replaces_layer"):
            @cp.before(cp.Event.SETUP, writes="modules")
            def go(self, state: None, scope: cp.Scope) -> None:
                scope.model.get_submodule("net")[1] = nn.Linear(36, 16)

        (fault,) = lightning_faults(compose(Replaces()), Module(), WeightAveraging())
        assert "may hold a copy from before" in fault.message


class Averages(pl.Callback):
    def __init__(self, averaged: AveragedModel) -> None:
        self.averaged = averaged

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *given: Any) -> None:
        self.averaged.update_parameters(pl_module)


class TestBatches:
    def test_the_batch_size_in_lightning(self) -> None:
        (fault,) = lightning_faults(compose("cutout", batch_size=16), Module())
        assert (
            fault.message
            == "the plan was composed for device batches of 16, and the train_dataloader gives batches of 8"
        )
        assert fault.fix == "write compose(..., batch_size=8)"
        fit(compose("cutout", batch_size=8), Module())

    def test_the_loader_on_accelerate(self) -> None:
        def steps(**facts: Any) -> AcceleratedSteps[Any]:
            model = hf.net()
            engine = cp.Engine(compose("cutout", **facts), model=model, optimizer=recipe.optimizer(model))
            return AcceleratedSteps(engine, Accelerator(cpu=True), model)

        data = DataLoader(recipe.items(), batch_size=recipe.SIZE)
        for prepared in (data, Accelerator(cpu=True).prepare(data)):
            with pytest.raises(cp.CompositionError) as caught:
                next(steps(batch_size=16, steps_per_epoch=10).groups(prepared, 2))
            fixes = [fault.fix for fault in caught.value.faults]
            assert fixes == ["write compose(..., batch_size=8)", "write compose(..., steps_per_epoch=20)"]
            assert len(list(steps(batch_size=8, steps_per_epoch=20).groups(prepared, 2))) == 10

    def test_the_number_of_microbatches(self, tmp_path: Path) -> None:
        plan = compose("cutout", microbatches=4)
        model = hf.net()
        steps = AcceleratedSteps(
            cp.Engine(plan, model=model, optimizer=recipe.optimizer(model)), Accelerator(cpu=True), model
        )
        with pytest.raises(cp.CompositionError) as caught:
            next(steps.groups(recipe.batches(), 2))
        faults = [
            *caught.value.faults,
            *lightning_faults(plan, Module(), accumulate_grad_batches=2),
            *transformers_faults(plan, hf.net(), tmp_path, gradient_accumulation_steps=2),
        ]
        places = ["the number of batches in a step", "accumulate_grad_batches", "gradient_accumulation_steps"]
        messages = [f"the plan was composed with microbatches=4, and {where} is 2" for where in places]
        assert [fault.message for fault in faults] == messages
        assert len(next(steps.groups(recipe.batches(), 4))) == 4
        fit(plan, Module(), accumulate_grad_batches=4)
        hf.trainer(tmp_path, plan, gradient_accumulation_steps=4)


class TestSeeds:
    def test_in_lightning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PL_GLOBAL_SEED", "3")
        (fault,) = lightning_faults(compose("cutout", seed=17), Module())
        assert fault.message == "the plan draws with seed=17, and that of seed_everything is 3"
        fit(compose("cutout", seed=3), Module())

    def test_on_accelerate(self, tmp_path: Path) -> None:
        config = DataLoaderConfiguration(data_seed=3, use_seedable_sampler=True)
        (fault,) = accelerate_faults(compose("cutout", seed=17), hf.net(), tmp_path, dataloader_config=config)
        assert "data_seed is 3" in fault.message

    def test_in_the_trainer(self, tmp_path: Path) -> None:
        (fault,) = transformers_faults(compose("cutout", seed=17), hf.net(), tmp_path, seed=3)
        assert "TrainingArguments.seed is 3" in fault.message
        hf.trainer(tmp_path, compose("cutout", seed=3), seed=3)


class TestPrecision:
    @pytest.mark.parametrize("loop", LOOPS)
    def test_of_the_launcher(self, loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        settings = {"accelerate": {"mixed_precision": "no"}, "transformers": {}}[loop]
        (fault,) = LOOPS[loop](compose("cutout"), hf.net(), tmp_path, **settings)
        assert "mixed_precision='bf16'" in fault.message

    def test_clipping_in_the_module(self) -> None:
        class Clips(Module):
            def configure_gradient_clipping(self, *given: Any, **named: Any) -> None:
                raise AssertionError

        (fault,) = lightning_faults(compose("gradient_clipping"), Clips())
        assert "and so does Clips.configure_gradient_clipping" in fault.message
