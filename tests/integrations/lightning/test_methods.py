"""Methods of every sort in Lightning's loop, beside the engine in a loop by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import new_class
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.integrations.lightning import CounterpointCallback
from tests.integrations import recipe
from tests.integrations.lit import QUIET, Module, compose, loader, make_trainer

pytestmark = QUIET

MANIFOLD = {"name": "manifold_mixup", "module": ["net.1", "net.3"]}


def by_hand(plan: cp.Plan, *epochs: int, autocast: bool = False) -> cp.Engine:
    """Train for some epochs in which so many batches make a step; the loss of each is divided by their number."""
    module = Module()
    engine = cp.Engine(plan, model=module)
    engine.optimizer = module.configure_optimizers()
    batches = recipe.batches()
    for parts in epochs:
        for start in range(0, len(batches), parts):
            with ExitStack() as opened:
                edited = [opened.enter_context(engine.batch(*batch)) for batch in batches[start : start + parts]]
                engine.step(partial(passes, engine, edited, parts, autocast=autocast))
    return engine


def passes(engine: cp.Engine, edited: list[cp.Batch], parts: int, *, autocast: bool) -> Tensor:
    losses = []
    for index, batch in enumerate(edited):
        with engine.on(index):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
                with engine.forward():
                    outputs = engine.model(batch.inputs)
                with engine.loss():
                    loss = engine.plan.loss(outputs, batch.targets) / parts
            with engine.backward():
                loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def in_lightning(plan: cp.Plan, *callbacks: pl.Callback, module: Module | None = None, **settings: Any) -> cp.Engine:
    callback = CounterpointCallback(plan, criterion="criterion")
    make_trainer(callback, *callbacks, **settings).fit(module or Module(), loader())
    return callback.engine


def assert_equal(one: cp.Engine, other: cp.Engine) -> None:
    """Models and all that the methods remember are the same bits."""
    for first, second in ((one.model.state_dict(), other.model.state_dict()), (one.state_dict(), other.state_dict())):
        assert first.keys() == second.keys()
        assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        (["selective_backprop", MANIFOLD, "ema"], 1),
        ([MANIFOLD, "sam", {"name": "swa", "start": "5ba"}], 2),
        (["mixup", {"name": "ema", "every": 2}, {"name": "gradient_clipping", "p": 0.5}], 3),
    ],
    ids=["selective-manifold", "manifold-sam-swa-2", "conditional-3"],
)
def test_methods_do_in_lightning_what_they_do_by_hand(methods: list[Any], parts: int) -> None:
    plan = compose(*methods)
    found = in_lightning(plan, accumulate_grad_batches=parts)
    assert_equal(found, by_hand(plan, parts))
    assert found.batches == recipe.STEPS


@pytest.mark.slow
def test_bfloat16_autocast() -> None:
    found = in_lightning(recipe.plan(), precision="bf16-mixed")
    assert_equal(found, by_hand(recipe.plan(), 1, autocast=True))


@pytest.mark.slow
def test_accumulation_that_begins_in_the_second_epoch() -> None:
    plan = compose("mixup", "sam", "ema")
    found = in_lightning(plan, GradientAccumulationScheduler({1: 2}), max_epochs=2)
    assert_equal(found, by_hand(plan, 1, 2))


@pytest.mark.slow
def test_a_module_that_steps_every_second_batch_by_itself() -> None:
    class Second(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) / 2

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            if batch_idx % 2 == 0:
                optimizer.zero_grad()

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx % 2:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    plan = recipe.plan(sam=True)
    assert_equal(in_lightning(plan, module=Second()), by_hand(plan, 2))


@pytest.mark.slow
def test_another_fit_goes_on() -> None:
    callback, module = CounterpointCallback(recipe.plan(), criterion="criterion"), Warm()
    for _ in range(2):
        make_trainer(callback).fit(module, loader())
    assert callback.engine.batches == 2 * recipe.STEPS
    assert module.stepped == 2 * recipe.STEPS


class Warm(Module):
    """Has its own way to step the optimizer, as for a warm-up of the learning rate."""

    stepped = 0

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        for group in optimizer.param_groups:
            group["lr"] = min(1.0, (self.stepped + 1) / 5) * 0.2
        optimizer.step(closure=optimizer_closure)
        self.stepped += 1


def test_every_span_is_fired_in_its_place() -> None:
    entries: list[str] = []

    class Validated(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            entries.append("validation_step")

    callback = CounterpointCallback(compose(diary(entries)), criterion="criterion")
    trainer = make_trainer(callback, limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0)
    trainer.fit(Validated(), loader(), loader())
    passes = "<forward forward> <loss loss> <backward backward>"
    batch = f"<batch <step {passes} <update update> step> batch>"
    evaluation = "<evaluation validation_step evaluation>"
    assert " ".join(entries) == f"<setup setup> <fit <epoch {batch} {batch} {evaluation} epoch> fit>"


def diary(entries: list[str]) -> cp.Algorithm[None]:
    """Return a method that writes down the beginning and the end of each span."""

    def at(event: cp.Event) -> Any:
        def hook(self: object, state: None, scope: cp.Scope) -> Iterator[None]:
            entries.append(f"<{event.value}")
            yield
            entries.append(f"{event.value}>")

        hook.__name__ = f"at_{event.value}"
        return cp.around(event, reads="parameters")(hook)

    hooks = {f"at_{event.value}": at(event) for event in cp.Event} | {"__module__": __name__}
    made = new_class("Diary", (cp.Algorithm[None],), {"name": "diary"}, lambda body: body.update(hooks))
    method: cp.Algorithm[None] = made()
    return method


class Convolutions(Module):
    """Has a convolution that blurpool replaces; where its layers are made is a subclass's affair."""

    def make(self) -> None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 16, 1), nn.Conv2d(16, 8, 3, stride=2), nn.Flatten(), nn.Linear(32, recipe.CLASSES)]
        self.net = nn.Sequential(*layers)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])


class InInit(Convolutions):
    def __init__(self) -> None:
        super().__init__()
        self.make()


class InSetup(Convolutions):
    def setup(self, stage: str) -> None:
        self.make()


class InConfigureModel(Convolutions):
    def configure_model(self) -> None:
        self.make()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [InInit, InSetup, InConfigureModel])
def test_surgery_comes_after_the_layers_and_before_the_optimizer_and_the_checkpoint(
    kind: type[Convolutions], tmp_path: Path
) -> None:
    plan = compose("blurpool", "mixup", "ema")
    module = kind()
    callback = CounterpointCallback(plan, criterion="criterion")
    trainer = make_trainer(callback, max_steps=3)
    trainer.fit(module, loader())
    held = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert held == set(map(id, module.parameters()))
    assert "ema.weights.net.1.conv.weight" in callback.state_dict()
    assert any("kernel" in name for name in module.state_dict())

    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    restored = CounterpointCallback(plan, criterion="criterion")
    again = kind()
    make_trainer(restored).predict(again, loader(), ckpt_path=tmp_path / "saved.ckpt")
    assert_equal(restored.engine, callback.engine)
