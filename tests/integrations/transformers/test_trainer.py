"""The recipe in Hugging Face's Trainer: what a loop by hand would train, and evaluations that see none of it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback, ViTConfig, ViTForImageClassification

import counterpoint as cp
from counterpoint.algorithms import EMA, SAM, BlurPool, CutOut, ManifoldMixup, MixUp, Normalize, SelectiveBackprop
from counterpoint.integrations.fields import Fields
from counterpoint.integrations.transformers import CounterpointTrainer
from tests.core.methods import LOG
from tests.integrations import hf, recipe

STATED: dict[str, Any] = {"task": "multiclass", "num_classes": recipe.CLASSES, "inputs": "normalized", "seed": 3}


def composed(*algorithms: object, loss: nn.Module | None = None, **stated: Any) -> cp.Plan:
    return cp.compose(algorithms, loss=nn.CrossEntropyLoss() if loss is None else loss, **{**STATED, **stated})


@pytest.fixture(autouse=True)
def _fresh_log() -> Iterator[None]:
    LOG.clear()
    yield
    LOG.clear()


@pytest.fixture
def tiny_vit() -> Callable[[], ViTForImageClassification]:
    def make() -> ViTForImageClassification:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
            config = ViTConfig(image_size=6, patch_size=3, num_channels=1, num_labels=recipe.CLASSES, **sizes)
            return ViTForImageClassification(config)

    return make


class TestTraining:
    @pytest.mark.slow
    @pytest.mark.parametrize("sam", [False, True])
    def test_it_trains_what_a_loop_by_hand_would(self, sam: bool, tmp_path: Path) -> None:
        trainer = hf.trainer(tmp_path, recipe.plan(sam=sam))
        trainer.train()
        assert trainer.engine.batches == trainer.state.global_step == recipe.STEPS
        recipe.assert_same(hf.result(trainer), recipe.plain(1, sam=sam))

    @pytest.mark.slow
    @pytest.mark.parametrize("sam", [False, True])
    def test_two_microbatches_train_what_the_loop_by_hand_would(self, sam: bool, tmp_path: Path) -> None:
        """But for rounding: each counts by the mass of its dense rows, which is 8 of 16 in all but the last bits."""
        trainer = hf.trainer(tmp_path, recipe.plan(sam=sam), gradient_accumulation_steps=2)
        trainer.train()
        assert trainer.state.global_step == recipe.STEPS
        assert trainer.engine.batches == 2 * recipe.STEPS
        by_hand = recipe.plain(2, sam=sam)
        recipe.assert_close(hf.result(trainer), by_hand, atol=1e-6)
        assert trainer.losses == pytest.approx(by_hand.losses, abs=1e-6)

    @pytest.mark.slow
    def test_an_uneven_last_group_is_a_whole_step(self, tmp_path: Path) -> None:
        """Five batches by two, the last of 4 samples, against both in one pass; some targets do not count."""
        data = hf.samples()[:36]
        for sample in data[3:7]:
            sample["labels"] = torch.tensor(-100)
        weights = torch.linspace(0.5, 2, recipe.CLASSES)
        plan = composed("cutout", loss=nn.CrossEntropyLoss(weights))
        options = {"train_dataset": data}
        trainer = hf.trainer(tmp_path, plan, None, options, gradient_accumulation_steps=2, num_train_epochs=2)
        trainer.train()
        net = recipe.model()
        engine = cp.Engine(plan, model=net, optimizer=recipe.optimizer(net))
        images, labels = (torch.stack([sample[name] for sample in data]) for name in ("pixel_values", "labels"))
        losses = []
        for group in [*torch.arange(36).split(16)] * 2:
            with ExitStack() as opened:
                parts = [opened.enter_context(engine.batch(images[part], labels[part])) for part in group.split(8)]
                inputs, targets = (torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "targets"))

                def closure(inputs: Tensor = inputs, targets: Tensor = targets) -> Tensor:
                    loss = torch.nn.functional.cross_entropy(net(inputs), targets, weights)
                    loss.backward()
                    return loss.detach()

                losses.append(engine.step(closure).item())
        assert trainer.engine.batches == 10
        recipe.assert_close(hf.result(trainer), recipe.result(engine, losses), atol=1e-6)
        assert trainer.losses == pytest.approx(losses, abs=1e-6)

    @pytest.mark.slow
    def test_bf16_on_a_cpu_is_that_of_autocast(self, tmp_path: Path) -> None:
        plan = composed(MixUp(), EMA())
        trainer = hf.trainer(tmp_path, plan, bf16=True, max_steps=5)
        trainer.train()
        net = recipe.model()
        engine = cp.Engine(plan, model=net, optimizer=recipe.optimizer(net))
        losses = []
        for images, labels in recipe.batches()[:5]:
            with engine.batch(images, labels) as batch:
                assert batch.targets.dtype == torch.float32

                def closure(inputs: Tensor = batch.inputs, targets: Tensor = batch.targets) -> Tensor:
                    with torch.autocast("cpu", torch.bfloat16):
                        outputs = net(inputs)
                    assert outputs.dtype == torch.bfloat16
                    loss = plan.loss(outputs.float(), targets)
                    loss.backward()
                    return loss.detach()

                losses.append(engine.step(closure).item())
        recipe.assert_same(hf.result(trainer), recipe.result(engine, losses))

    @pytest.mark.slow
    def test_a_model_of_the_library_never_sees_labels(
        self, tiny_vit: Callable[[], ViTForImageClassification], tmp_path: Path
    ) -> None:
        """It would note the problem that it takes their dtype for in its config."""
        seen = []

        def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
            seen.append(batch["labels"].dtype)
            return batch

        trainer = hf.trainer(tmp_path, recipe.plan(), tiny_vit(), {"data_collator": collate}, max_steps=3)
        trainer.train()
        trainer.evaluate()
        assert trainer.model.config.problem_type is None
        assert set(seen) == {torch.int64}
        assert len(seen) >= 6

    @pytest.mark.slow
    def test_methods_that_look_into_the_model_or_run_it(self, tmp_path: Path) -> None:
        """Manifold mixup acts inside the model; selective backprop runs it, and leaves fewer samples."""
        plan = composed(ManifoldMixup(module="1"), SelectiveBackprop(), SAM())
        trainer = hf.trainer(tmp_path, plan, max_steps=4)
        trainer.train()
        net = recipe.model()
        engine = cp.Engine(plan, model=net, optimizer=recipe.optimizer(net))
        losses = []
        for images, labels in recipe.batches()[:4]:
            with engine.batch(images, labels) as batch:

                def closure(inputs: Tensor = batch.inputs, targets: Tensor = batch.targets) -> Tensor:
                    assert len(inputs) == 4
                    with engine.forward():
                        outputs = net(inputs)
                    loss = plan.loss(outputs, targets)
                    loss.backward()
                    return loss.detach()

                losses.append(engine.step(closure).item())
        recipe.assert_same(hf.result(trainer), recipe.result(engine, losses))

    @pytest.mark.slow
    def test_samples_are_chosen_in_each_batch(self, tmp_path: Path) -> None:
        sizes = []

        class Counts(hf.Net):
            def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
                sizes.append((self.training, len(pixel_values)))
                return super().forward(pixel_values)

        plan = composed(SelectiveBackprop(keep=0.25))
        trainer = hf.trainer(tmp_path, plan, Counts(*recipe.model()), gradient_accumulation_steps=3, max_steps=1)
        trainer.train()
        assert sizes == [*[(False, 8)] * 3, *[(True, 2)] * 3]
        assert len(trainer.losses) == trainer.state.global_step == 1

    @pytest.mark.slow
    def test_surgery_comes_before_the_optimizer(self, tmp_path: Path) -> None:
        def model() -> hf.Net:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                return hf.Net(nn.Conv2d(1, 16, 1), nn.Conv2d(16, 4, 2, stride=2), nn.Flatten(), nn.Linear(36, 4))

        plan = composed(BlurPool())
        trainer = hf.trainer(tmp_path, plan, model(), {"optimizers": (None, None)}, optim="sgd", max_steps=3)
        assert "Blur" in type(trainer.model[1]).__name__
        trainer.train()
        held = {id(parameter) for group in trainer.optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in trainer.model.parameters()}
        with pytest.raises(cp.CompositionError, match="optim=") as caught:
            hf.trainer(tmp_path, plan, model())
        assert [fault.code for fault in caught.value.faults] == ["late-surgery"]

    @pytest.mark.slow
    def test_named_inputs_of_several_tensors_are_edited_alike_and_others_pass(self, tmp_path: Path) -> None:
        seen: list[tuple[Tensor, Tensor, Tensor]] = []

        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = recipe.model()

            def forward(self, left: Tensor, right: Tensor, number: Tensor) -> tuple[Tensor, ...]:
                seen.append((left, right, number))
                return (self.body(left) + self.body(right), left)

        data = [
            {"left": image, "right": image + 1, "number": torch.tensor(n), "target": label}
            for n, (image, label) in enumerate(recipe.items()[:32])
        ]
        options = {"train_dataset": data, "eval_dataset": data, "fields": Fields(("left", "right"), "target")}
        plan = composed(MixUp(alpha=1.0))
        changes = {"label_names": ["target"], "gradient_accumulation_steps": 2, "max_steps": 1}
        trainer = hf.trainer(tmp_path, plan, Two(), options, **changes)
        trainer.train()
        assert len(seen) == 2
        for step, (left, right, number) in enumerate(seen):
            images, labels = recipe.batches()[step]
            (wanted_left, wanted_right), _ = plan((images, images + 1), labels, step=step)
            assert torch.equal(left, wanted_left)
            assert torch.equal(right, wanted_right)
            assert number.tolist() == list(range(8 * step, 8 * step + 8))
        output = trainer.predict(data)
        assert [part.shape for part in output.predictions] == [(32, recipe.CLASSES), (32, *recipe.SHAPE)]
        assert output.label_ids.tolist() == [int(sample["target"]) for sample in data]
        assert "test_loss" in output.metrics

    @pytest.mark.slow
    @pytest.mark.kind("7e")
    @pytest.mark.parametrize("methods", [("ema",), ("mixup", "ema"), ("cutout", "label_smoothing", "sam")])
    def test_batches_of_a_step_may_differ_in_shape(self, methods: tuple[str, ...], tmp_path: Path) -> None:
        """As where a collator pads each batch to its longest sample."""

        class Pools(hf.Net):
            def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
                return super().forward(nn.functional.adaptive_avg_pool2d(pixel_values, 6))

        data = hf.samples()[:32]
        for number, sample in enumerate(data):
            sample["pixel_values"] = nn.functional.pad(sample["pixel_values"], (0, number // 8))
        plan, net = composed(*methods), Pools(*recipe.model())
        trainer = hf.trainer(tmp_path, plan, net, {"train_dataset": data}, gradient_accumulation_steps=2)
        trainer.train()
        by_hand = Pools(*recipe.model())
        engine = cp.Engine(plan, model=by_hand, optimizer=recipe.optimizer(by_hand))
        losses = []
        for start in (0, 16):
            with ExitStack() as opened:
                groups = [data[start : start + 8], data[start + 8 : start + 16]]
                stacked = [
                    [torch.stack([s[key] for s in group]) for key in ("pixel_values", "labels")] for group in groups
                ]
                parts = [opened.enter_context(engine.batch(*pair)) for pair in stacked]

                def closure(parts: list[cp.Batch] = parts) -> Tensor:
                    found = [plan.loss(by_hand(part.inputs)["logits"], part.targets) / 2 for part in parts]
                    torch.stack(found).sum().backward()
                    return torch.stack(found).sum().detach()

                losses.append(engine.step(closure).item())
        recipe.assert_close(hf.result(trainer), recipe.result(engine, losses), atol=1e-6)
        assert trainer.losses == pytest.approx(losses, abs=1e-6)

    @pytest.mark.slow
    def test_methods_in_the_forward_pass_know_its_batch(self, tmp_path: Path) -> None:
        """With accumulation too: each pass is over the batch whose draws it gets."""
        plan = composed(ManifoldMixup(module="1"))
        trainer = hf.trainer(tmp_path, plan, gradient_accumulation_steps=2, max_steps=3)
        trainer.train()
        net = recipe.model()
        engine = cp.Engine(plan, model=net, optimizer=recipe.optimizer(net))
        for group in recipe.groups(2)[:3]:
            with ExitStack() as opened:
                parts = [opened.enter_context(engine.batch(*batch)) for batch in group]

                def closure(parts: list[cp.Batch] = parts) -> Tensor:
                    for number, part in enumerate(parts):
                        with engine.on(number):
                            with engine.forward():
                                outputs = net(part.inputs)
                            (plan.loss(outputs, part.targets) / 2).backward()
                    return torch.zeros(())

                engine.step(closure)
        recipe.assert_close(hf.result(trainer), recipe.result(engine, trainer.losses), atol=1e-6)

    def test_outputs_without_logits_are_refused(self, tmp_path: Path) -> None:
        class Wrong(hf.Net):
            def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
                return {"scores": pixel_values}

        trainer = hf.trainer(tmp_path, composed(), Wrong(*recipe.model()))
        with pytest.raises(cp.RunError, match=r"\['scores'\].*'logits'"):
            trainer.evaluate()


def stacked(samples: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = (torch.stack([sample[key] for sample in samples]) for key in ("pixel_values", "labels"))
    return images, labels


def noted(name: str) -> Generator[None, cp.Outcome, None]:
    LOG.append(f"<{name}>")
    outcome = yield
    LOG.append(f"</{name}>" if outcome.error is None else f"</{name} {type(outcome.error).__name__}>")


class Spans(cp.Algorithm[None], name="spans"):
    """Notes where each span begins and ends."""

    @cp.around(cp.Event.FIT, reads="parameters")
    def fit(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted("fit")

    @cp.around(cp.Event.EPOCH, reads="parameters")
    def epoch(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted("epoch")

    @cp.around(cp.Event.BATCH, reads="parameters")
    def batch(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted(f"batch {scope.step}")

    @cp.around(cp.Event.FORWARD, reads="parameters")
    def forward(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted("forward")

    @cp.around(cp.Event.LOSS, reads="parameters")
    def loss(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted("loss")

    @cp.around(cp.Event.BACKWARD, reads="parameters")
    def backward(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted("backward")

    @cp.around(cp.Event.UPDATE, reads="parameters")
    def update(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted("update")

    @cp.around(cp.Event.EVALUATION, reads="parameters")
    def evaluation(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield from noted("evaluation")


class TestSpans:
    @pytest.mark.slow
    def test_hooks_run_in_their_places(self, tmp_path: Path) -> None:
        class Watch(TrainerCallback):
            def on_pre_optimizer_step(self, *given: Any, **known: Any) -> None:
                LOG.append("optimizer")

        options = {"train_dataset": hf.samples()[:16], "callbacks": [Watch()]}
        trainer = hf.trainer(
            tmp_path, composed(Spans()), None, options, num_train_epochs=2, gradient_accumulation_steps=2,
            eval_strategy="epoch",
        )  # fmt: skip
        trainer.train()
        passes = "<forward> </forward> <loss> </loss> <backward> </backward> " * 2
        epochs = [
            f"<epoch> <batch {n}> <batch {n + 1}> {passes}<update> optimizer </update> </batch {n + 1}> </batch {n}> "
            "</epoch> <evaluation> </evaluation>"
            for n in (0, 2)
        ]
        assert " ".join(LOG) == f"<fit> {' '.join(epochs)} </fit>"

        LOG.clear()
        trainer = hf.trainer(tmp_path, composed(Spans()), None, {**options, "callbacks": [Fails()]})
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        ends = [f"</{name} KeyboardInterrupt>" for name in ("update", "batch 0", "epoch", "fit")]
        assert LOG[-4:] == ends

    @pytest.mark.slow
    def test_a_second_run_is_refused(self, tmp_path: Path) -> None:
        trainer = hf.trainer(tmp_path, composed(EMA()), None, None, max_steps=2)
        trainer.train()
        with pytest.raises(cp.RunError, match="trained 2 batches"):
            trainer.train()

    @pytest.mark.slow
    def test_a_loss_that_is_no_number_ends_the_run_before_its_step(self, tmp_path: Path) -> None:
        data = hf.samples()[:24]
        data[20]["pixel_values"] = torch.full(recipe.SHAPE, float("nan"))
        trainer = hf.trainer(tmp_path, composed(MixUp()), None, {"train_dataset": data})
        with pytest.raises(cp.NonFiniteLossError, match="step 2: the loss is nan; draws of this step: mixup: lam"):
            trainer.train()
        assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


class Fails(TrainerCallback):
    """Ends the run where the gradients are whole."""

    def on_pre_optimizer_step(self, *given: Any, **known: Any) -> None:
        raise KeyboardInterrupt


class TestEvaluation:
    @pytest.mark.slow
    def test_it_sees_unedited_batches_and_the_evaluation_weights(self, tmp_path: Path) -> None:
        seen: list[EvalPrediction] = []

        def measure(prediction: EvalPrediction) -> dict[str, float]:
            seen.append(prediction)
            return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

        trainer = hf.trainer(tmp_path, recipe.plan(), None, {"compute_metrics": measure}, max_steps=6)
        trainer.train()
        trained = recipe.weights(trainer.model)
        metrics = trainer.evaluate()
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(value, trained[name])
        averaged = recipe.model()
        averaged.load_state_dict(hf.result(trainer).averaged)
        whole = hf.batch(40)
        with torch.no_grad():
            outputs = averaged(whole["pixel_values"])
            loss = nn.functional.cross_entropy(outputs, whole["labels"])
        assert metrics["eval_loss"] == pytest.approx(loss.item(), abs=1e-6)
        assert metrics["eval_accuracy"] == (outputs.argmax(1) == whole["labels"]).float().mean()
        (prediction,) = seen
        np.testing.assert_allclose(prediction.predictions, outputs.numpy(), rtol=0, atol=1e-6)
        assert prediction.label_ids.tolist() == whole["labels"].tolist()
        output = trainer.predict(hf.samples()[:40])
        np.testing.assert_array_equal(output.predictions, prediction.predictions)
        assert output.metrics["test_loss"] == metrics["eval_loss"]

    def test_the_loss_is_the_mean_over_all_that_counts(self, tmp_path: Path) -> None:
        """Not that of the batches, whose weights differ, and without a batch in which nothing counts."""
        weights = torch.linspace(0.1, 3, recipe.CLASSES)
        data = hf.samples()[:40]
        for sample in [*data[:3], *data[16:32]]:
            sample["labels"] = torch.tensor(-100)
        plan = composed("mixup", loss=nn.CrossEntropyLoss(weights))
        trainer = hf.trainer(tmp_path, plan, None, {"eval_dataset": data})
        labels = torch.stack([sample["labels"] for sample in data])
        with torch.no_grad():
            outputs = recipe.model()(hf.batch(40)["pixel_values"])
        loss = nn.functional.cross_entropy(outputs, labels, weights)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), abs=1e-6)

    def test_a_loss_that_is_no_number_is_not_hidden(self, tmp_path: Path) -> None:
        data = hf.samples()[:40]
        data[20]["pixel_values"] = torch.full(recipe.SHAPE, float("inf"))
        trainer = hf.trainer(tmp_path, composed(), None, {"eval_dataset": data}, logging_nan_inf_filter=True)
        assert not np.isfinite(trainer.evaluate()["eval_loss"])

    @pytest.mark.slow
    def test_training_goes_on_as_if_there_had_been_none(self, tmp_path: Path) -> None:
        modes: list[tuple[bool, int]] = []

        class Notes(hf.Net):
            def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
                modes.append((self.training, len(pixel_values)))
                return super().forward(pixel_values)

        def train(**changes: Any) -> recipe.Result:
            trainer = hf.trainer(tmp_path, recipe.plan(), Notes(*recipe.model()), max_steps=4, **changes)
            trainer.train()
            return hf.result(trainer)

        recipe.assert_same(train(eval_strategy="steps", eval_steps=2), train())
        evaluation = [(False, 16), (False, 16), (False, 8)]
        assert modes == [*[(True, 8)] * 2, *evaluation, *[(True, 8)] * 2, *evaluation, *[(True, 8)] * 4]

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_weights_are_back_after_one_that_fails(self, error: type[BaseException], tmp_path: Path) -> None:
        class Stops(TrainerCallback):
            def on_prediction_step(self, *given: Any, **known: Any) -> None:
                assert not torch.equal(trainer.model[1].weight, trained["1.weight"])
                raise error

        trainer = hf.trainer(tmp_path, composed(EMA()), None, {"callbacks": [Stops()]}, max_steps=4)
        trainer.train()
        trained = recipe.weights(trainer.model)
        with pytest.raises(error):
            trainer.evaluate()
        assert all(torch.equal(value, trained[name]) for name, value in trainer.model.state_dict().items())

    def test_what_changes_the_inputs_kind_runs_there_too(self, tmp_path: Path) -> None:
        plan = composed(Normalize(mean=[0.5], std=[0.25]), MixUp(), CutOut(), inputs="unit")
        data = [{**sample, "pixel_values": sample["pixel_values"].sigmoid()} for sample in hf.samples()]
        trainer = hf.trainer(tmp_path, plan, None, {"train_dataset": data, "eval_dataset": data[:40]})
        images = (hf.batch(40)["pixel_values"].sigmoid() - 0.5) / 0.25
        with torch.no_grad():
            loss = nn.functional.cross_entropy(recipe.model()(images), hf.batch(40)["labels"])
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss.item(), abs=1e-6)
        unlabelled = [{"pixel_values": sample["pixel_values"]} for sample in data[:8]]
        with pytest.raises(cp.DataError, match="without 'labels'"):
            trainer.predict(unlabelled)

    def test_predictions_need_no_labels(self, tmp_path: Path) -> None:
        trainer = hf.trainer(tmp_path, recipe.plan())
        output = trainer.predict([{"pixel_values": sample["pixel_values"]} for sample in hf.samples()[:20]])
        with torch.no_grad():
            wanted = recipe.model()(hf.batch(20)["pixel_values"])
        np.testing.assert_allclose(output.predictions, wanted.numpy(), rtol=0, atol=1e-6)
        assert "test_loss" not in output.metrics


def test_the_signature() -> None:
    wanted = (
        "(self, model, args, *, plan, fields=Fields(inputs=('pixel_values',), targets='labels'), "
        "allow_changes=False, **options) -> None"
    )
    signature = inspect.signature(CounterpointTrainer.__init__)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    assert str(signature.replace(parameters=bare)) == wanted.replace("None", "'None'")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "counterpoint.integrations.transformers"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'counterpoint\[transformers\]'"):
        importlib.import_module(name)
