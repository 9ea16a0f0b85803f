"""Metrics beside edited targets: the original targets are at hand in every loop, and an expected accuracy is exact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint.integrations.accelerate import AcceleratedSteps
from counterpoint.integrations.lightning import CounterpointCallback, original_targets
from counterpoint.integrations.torchmetrics import ExpectedAccuracy
from tests.integrations import hf, recipe
from tests.integrations.lit import QUIET, Module, compose, loader, make_trainer

pytestmark = [QUIET, pytest.mark.kind("7d"), pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]
PARTS = 2
"""Batches in a step, which differ."""


def wanted(count: int = 6) -> list[list[int]]:
    return [labels.tolist() for _, labels in recipe.batches(PARTS)[:count]]


class TestOriginal:
    @pytest.mark.parametrize("methods", [(), ("mixup",), ("cutmix", "label_smoothing", "sam")])
    def test_in_a_plain_loop(self, methods: tuple[str, ...]) -> None:
        net = recipe.model()
        engine = cp.Engine(compose(*methods), model=net, optimizer=recipe.optimizer(net))
        seen = []
        for inputs, targets in recipe.batches(PARTS)[:6]:
            with engine.batch(inputs, targets) as batch:
                seen.append(batch.original.tolist())
                assert engine.original is batch.original
                assert batch.with_inputs(inputs).original is batch.original
        assert seen == wanted()
        with pytest.raises(cp.RunError, match="no batch is open"):
            _ = engine.original

    def test_on_accelerate(self) -> None:
        net, seen = recipe.model(), []
        accelerator = Accelerator(cpu=True)
        engine = cp.Engine(compose("mixup", "sam"), model=net)
        model, engine.optimizer = accelerator.prepare(net, recipe.optimizer(net))

        def forward(batch: Any) -> Tensor:
            seen.append(engine.original.tolist())
            assert batch[1].dtype == torch.float32
            outputs: Tensor = model(batch[0])
            return outputs

        steps = AcceleratedSteps(engine, accelerator, model, forward=forward)
        steps.step(recipe.batches(PARTS)[:2])
        assert seen == wanted(2) * 2  # SAM makes the passes twice

    @pytest.mark.slow
    def test_in_the_trainer(self, tmp_path: Path) -> None:
        seen: list[list[int]] = []

        class Looks(hf.Net):
            def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
                seen.append(trainer.engine.original.tolist())
                return super().forward(pixel_values)

        settings = {"gradient_accumulation_steps": PARTS, "max_steps": 3}
        trainer = hf.trainer(tmp_path, compose("mixup"), Looks(*recipe.model()), **settings)
        trainer.train()
        assert seen == wanted()

    @pytest.mark.slow
    @pytest.mark.parametrize("compiled", [False, True])
    def test_of_samples_that_are_chosen(self, compiled: bool) -> None:
        """They are those of the samples that are left, in their order."""
        net = recipe.model()
        plan = compose({"name": "selective_backprop", "keep": 0.25}, "mixup", contract="off")
        plan = replace(plan, backend="eager") if compiled else plan
        engine = cp.Engine(plan, model=net, optimizer=recipe.optimizer(net))
        numbers = torch.arange(8)
        for inputs, targets in recipe.batches()[:3]:
            marked = inputs.clone()
            marked[:, 0, 0, 0] = numbers.float()
            only = compose({"name": "selective_backprop", "keep": 0.25}, contract="off")
            chosen = cp.Engine(only, model=net)
            chosen.batches = engine.batches
            with chosen.batch(marked, targets) as left, engine.batch(marked, targets) as batch:
                kept = left.inputs[:, 0, 0, 0].long()
                assert len(kept) == 2
                assert torch.equal(batch.original, targets[kept])
                assert torch.equal(left.original, left.targets)

    @pytest.mark.slow
    def test_in_a_compiled_plan(self) -> None:
        """Batches of one form share a function, and nothing of the first batch."""
        plan = replace(compose("mixup", "label_smoothing", contract="off"), backend="eager")
        engine = cp.Engine(plan, model=recipe.model())
        for inputs, targets in recipe.batches()[:3]:
            with engine.batch(inputs, targets) as batch:
                assert batch.original is targets

    @pytest.mark.parametrize("parts", [1, PARTS])
    def test_in_lightning(self, parts: int) -> None:
        class Watches(Module):
            def __init__(self) -> None:
                super().__init__()
                self.seen: list[list[int]] = []
                self.validated: list[list[int]] = []

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                original = original_targets(self, batch[1])
                assert batch[1].dtype == torch.float32
                self.seen.append(original.tolist())
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                assert original_targets(self, batch[1]) is batch[1]
                self.validated.append(batch[1].tolist())

        module = Watches()
        callback = CounterpointCallback(compose("mixup"), criterion="criterion")
        settings = {"accumulate_grad_batches": parts, "limit_train_batches": 6, "limit_val_batches": 2}
        make_trainer(callback, **settings).fit(module, loader(PARTS), loader(PARTS))
        assert module.seen == wanted()
        assert module.validated[-2:] == wanted(2)
        plain = Watches()
        assert original_targets(plain, torch.tensor([1])).tolist() == [1]


shapes = st.tuples(st.integers(1, 6), st.integers(2, 5), st.sampled_from([(), (3,)]))


class TestExpectedAccuracy:
    @pytest.mark.slow
    @given(st.lists(shapes, min_size=1, max_size=3), st.integers(0, 2**31))
    def test_on_class_indices_it_is_the_accuracy(self, batches: list[Any], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        accuracy, right, counted = ExpectedAccuracy(), 0, 0
        for size, classes, positions in batches:
            outputs = torch.randn(size, classes, *positions, generator=generator)
            targets = torch.randint(classes, (size, *positions), generator=generator)
            targets[torch.rand(targets.shape, generator=generator) < 0.3] = -100
            accuracy.update(outputs, targets)
            right += int((outputs.argmax(1) == targets).sum())
            counted += int((targets != -100).sum())
        if counted:
            assert accuracy.compute().item() == pytest.approx(right / counted)
        else:
            assert accuracy.compute().isnan()

    @pytest.mark.slow
    @given(st.integers(1, 8), st.integers(2, 5), st.floats(0, 1), st.integers(0, 2**31))
    def test_on_mixed_targets_it_is_the_mean_over_both_labels(
        self, size: int, classes: int, share: float, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        outputs, perm = torch.randn(size, classes, generator=generator), torch.randperm(size, generator=generator)
        labels = torch.randint(classes, (size,), generator=generator)
        _, mixed = CF.mixup(torch.zeros(size, 1), CF.dense_targets(labels, classes), torch.tensor(share), perm)
        predicted = outputs.argmax(1)
        own, partner = (predicted == labels).double(), (predicted == labels[perm]).double()
        expected = (share * own + (1 - share) * partner).mean().item()
        assert ExpectedAccuracy()(outputs, mixed).item() == pytest.approx(expected, abs=1e-6)

    def test_where_torchmetrics_sees_nothing(self) -> None:
        """A model that predicts what most of an image is of, by torchmetrics' own on edited targets and on original."""
        plan = compose({"name": "mixup", "alpha": 1.0})
        inputs, targets = recipe.batches()[0]
        _, mixed = plan(inputs, targets, step=0)
        outputs = CF.dense_targets(targets, recipe.CLASSES)
        assert MulticlassAccuracy(recipe.CLASSES, average="micro")(outputs, targets) == 1
        expected = mixed.gather(1, targets.unsqueeze(1)).mean().item()
        assert 0.3 < expected < 1
        assert ExpectedAccuracy()(outputs, mixed).item() == pytest.approx(expected)

    def test_settings_and_wrong_targets(self) -> None:
        outputs = torch.eye(3)
        assert ExpectedAccuracy(ignore_index=2)(outputs, torch.tensor([0, 0, 2])) == 0.5
        for wrong in (torch.tensor([0, 1]), torch.eye(3)[:2], torch.zeros(3, 4), torch.zeros(3, 3, dtype=torch.long)):
            with pytest.raises(cp.DataError, match="do not fit outputs"):
                ExpectedAccuracy().update(outputs, wrong)
        one, other = ExpectedAccuracy(), ExpectedAccuracy()
        one.update(outputs, torch.tensor([0, 1, 0]))
        other.update(outputs[:1], torch.tensor([1]))
        one.merge_state(other)
        assert one.compute().item() == 0.5
        one.reset()
        one.update(outputs, torch.full((3,), -100))
        assert one.compute().isnan()

    def test_it_is_logged_in_lightning(self) -> None:
        class Logs(Module):
            def __init__(self) -> None:
                super().__init__()
                self.expected = ExpectedAccuracy()
                self.right: list[float] = []

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                inputs, targets = batch
                outputs = self(inputs)
                self.right.append(targets.gather(1, outputs.argmax(1, keepdim=True)).mean().item())
                self.expected(outputs, targets)
                self.log("expected", self.expected, on_step=False, on_epoch=True)
                return self.criterion(outputs, targets)

        module = Logs()
        trainer = make_trainer(CounterpointCallback(compose("mixup"), criterion="criterion"))
        trainer.fit(module, loader())
        assert float(trainer.callback_metrics["expected"]) == pytest.approx(sum(module.right) / recipe.STEPS, abs=1e-5)
