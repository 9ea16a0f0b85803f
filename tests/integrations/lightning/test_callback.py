"""A plan in Lightning's loop, beside the same recipe in a loop by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import counterpoint as cp
from counterpoint import CheckpointError, DataError
from counterpoint.integrations.fields import Fields
from counterpoint.integrations.lightning import CounterpointCallback
from tests.integrations import recipe
from tests.integrations.lit import QUIET, Module, loader, make_trainer

pytestmark = QUIET


class Losses(pl.Callback):
    """Keeps the loss of each batch."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(outputs["loss"])


def unprefixed(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("net."): value for name, value in values.items()}


def result(callback: CounterpointCallback, losses: list[float]) -> recipe.Result:
    ended = recipe.result(callback.engine, losses)
    return recipe.Result(unprefixed(ended.weights), unprefixed(ended.averaged), ended.losses)


def train(module: Module, microbatches: int, *, sam: bool = False, **settings: Any) -> recipe.Result:
    losses = Losses()
    callback = CounterpointCallback(recipe.plan(sam=sam), criterion="criterion")
    make_trainer(callback, losses, **settings).fit(module, loader(microbatches))
    groups = [losses.seen[start : start + microbatches] for start in range(0, len(losses.seen), microbatches)]
    return result(callback, [sum(group, torch.zeros(())).item() for group in groups])


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_automatic_optimization_equals_the_loop_by_hand(microbatches: int) -> None:
    found = train(Module(), microbatches, accumulate_grad_batches=microbatches)
    recipe.assert_same(found, recipe.plain(microbatches))


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_manual_optimization_equals_the_loop_by_hand(microbatches: int) -> None:
    found = train(Module(manual_parts=microbatches), microbatches)
    recipe.assert_same(found, recipe.plain(microbatches))


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [1, 2])
def test_sam_equals_the_loop_by_hand(microbatches: int) -> None:
    found = train(Module(), microbatches, sam=True, accumulate_grad_batches=microbatches)
    expected = recipe.plain(microbatches, sam=True)
    # Lightning reports the loss of the last passes, which are SAM's second.
    recipe.assert_same(recipe.Result(found.weights, found.averaged, expected.losses), expected)


def fit(plan: cp.Plan, module: pl.LightningModule | None = None, **settings: Any) -> CounterpointCallback:
    """Train for one epoch with the criterion taken over."""
    callback = CounterpointCallback(plan, criterion="criterion")
    others = settings.pop("callbacks", [])
    make_trainer(callback, *others, **settings).fit(Module() if module is None else module, loader())
    return callback


class Watched(Module):
    """Remembers the weights and the batches of each stage, and whether its methods are its own again."""

    def __init__(self) -> None:
        super().__init__()
        self.saw: dict[str, list[tuple[Tensor, Any]]] = {}

    def _saw(self, batch: Any) -> None:
        stage = str(self.trainer.state.stage.value)
        self.saw.setdefault(stage, []).append((self.net[1].weight.detach().clone(), batch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._saw(batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._saw(batch)
        inputs, targets = batch
        assert torch.equal(self.criterion(self(inputs), targets), nn.CrossEntropyLoss()(self(inputs), targets))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._saw(batch)
        return self(batch[0])


def assert_own(module: Module) -> None:
    """Its methods are its own again."""
    assert not {"training_step", "backward", "setup", "configure_model", "on_load_checkpoint"} & vars(module).keys()
    assert "forward" not in vars(module.criterion)


def average_of(callback: CounterpointCallback) -> Tensor:
    return callback.engine.state_dict()["ema.weights.net.1.weight"].clone()


def assert_batch(batch: Any, number: int) -> None:
    inputs, targets = recipe.batches()[number]
    assert torch.equal(batch[0], inputs)
    assert torch.equal(batch[1], targets)


@pytest.mark.slow
def test_evaluation_sees_unedited_batches_and_the_average_and_the_sanity_check_no_average() -> None:
    module, callback = Watched(), CounterpointCallback(recipe.plan(), criterion="criterion")
    trainer = make_trainer(callback, limit_val_batches=2, num_sanity_val_steps=1)
    trainer.fit(module, loader(), loader())
    initial, average = recipe.model()[1].weight, average_of(callback)
    (sanity,), validated = module.saw["sanity_check"], module.saw["validate"]
    assert torch.equal(sanity[0], initial)
    assert all(torch.equal(weight, average) for weight, _ in validated)
    assert not torch.equal(module.net[1].weight, average)
    for number, (_, batch) in enumerate(validated):
        assert_batch(batch, number)
    assert all(batch[1].dtype == torch.float32 for _, batch in module.saw["train"])
    assert_own(module)

    for run, stage in ((trainer.validate, "validate"), (trainer.test, "test"), (trainer.predict, "predict")):
        module.saw.clear()
        run(module, loader(), **({} if stage == "predict" else {"verbose": False}))
        for number, (weight, batch) in enumerate(module.saw[stage]):
            assert torch.equal(weight, average)
            assert_batch(batch, number)
    assert_own(module)


class Fails(Watched):
    """Fails in the validation after a number of training steps."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.global_step:
            raise ZeroDivisionError


class FailsToo(pl.Callback):
    """Keeps the callbacks after it from hearing of an exception."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        raise ArithmeticError from exception


def test_weights_are_restored_when_validation_fails_and_another_callback_too() -> None:
    module, callback = Fails(), CounterpointCallback(recipe.plan(), criterion="criterion")
    trainer = make_trainer(FailsToo(), callback, val_check_interval=4, num_sanity_val_steps=0)
    with pytest.raises(ArithmeticError):
        trainer.fit(module, loader(), loader())
    (weight, _), *_ = module.saw["validate"]
    assert torch.equal(weight, average_of(callback))
    trained = train_alone(4)
    assert torch.equal(module.net[1].weight, trained)
    assert not torch.equal(weight, trained)
    assert_own(module)
    assert not {"run", "save_checkpoint"} & {
        *vars(trainer),
        *vars(trainer.fit_loop),
        *vars(trainer.fit_loop.epoch_loop),
    }
    assert "optimizer_step" not in vars(trainer.strategy)


def train_alone(steps: int) -> Tensor:
    """The weight after some steps of a run that nothing interrupts."""
    module = Module()
    fit(recipe.plan(), module, max_steps=steps)
    return module.net[1].weight


def test_an_exception_in_a_training_step_leaves_nothing_behind() -> None:
    class Breaks(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 3:
                raise ZeroDivisionError
            return loss

    module = Breaks()
    callback = CounterpointCallback(recipe.plan(), criterion="criterion")
    with pytest.raises(ZeroDivisionError):
        make_trainer(callback).fit(module, loader())
    assert_own(module)
    assert callback.engine.batches == 3
    assert callback.engine.draws() == {}


class Resumable(DataLoader[Any]):
    """A loader whose state is how many batches it has given in this epoch."""

    def __init__(self) -> None:
        super().__init__(recipe.items(), batch_size=recipe.SIZE)
        self.given = 0

    def __iter__(self) -> Iterator[Any]:
        skipped, self.given = self.given, 0
        for number, batch in enumerate(super().__iter__()):
            if number >= skipped:
                self.given = number + 1
                yield batch
        self.given = 0

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


class Saves(pl.Callback):
    """Saves at the end of each validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def run_on(*callbacks: pl.Callback, path: Path | None = None, **settings: Any) -> recipe.Result:
    """Train for two epochs with validation, or from a checkpoint."""
    callback = CounterpointCallback(recipe.plan(), criterion="criterion")
    settings = {"max_epochs": 2, "num_sanity_val_steps": 0, "limit_val_batches": 1, **settings}
    make_trainer(callback, *callbacks, **settings).fit(Watched(), Resumable(), loader(), ckpt_path=path)
    return result(callback, [])


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, 20])
def test_a_run_resumes_bit_for_bit_from_a_checkpoint_saved_in_validation(step: int, tmp_path: Path) -> None:
    whole = run_on()
    stopped = run_on(Saves(tmp_path), max_steps=step, check_val_every_n_epoch=None, val_check_interval=step)
    saved = torch.load(tmp_path / f"{step}.ckpt", weights_only=True)
    assert torch.equal(saved["state_dict"]["net.1.weight"], stopped.weights["1.weight"])
    assert not torch.equal(stopped.weights["1.weight"], stopped.averaged["1.weight"])
    state = saved["callbacks"]["CounterpointCallback"]
    assert all(isinstance(value, Tensor) for value in state.values())
    assert int(state["batches"]) == step
    recipe.assert_same(run_on(path=tmp_path / f"{step}.ckpt"), whole)


@pytest.mark.slow
def test_a_checkpoint_of_a_run_without_the_callback_is_refused(tmp_path: Path) -> None:
    make_trainer(Saves(tmp_path), max_epochs=2, num_sanity_val_steps=0).fit(Watched(), loader(), loader())
    with pytest.raises(CheckpointError, match="of a run without CounterpointCallback"):
        run_on(path=tmp_path / "20.ckpt")


@pytest.mark.slow
def test_nested_batches_with_named_fields() -> None:
    class Nested(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch["name"] == ["a"] * recipe.SIZE
            return self.criterion(self(batch["views"][0]), batch["label"])

    items = [{"views": (image,), "label": label, "name": "a"} for image, label in recipe.items()]
    callback = CounterpointCallback(recipe.plan(), criterion="criterion", fields=Fields(("views.0",), "label"))
    losses = Losses()
    make_trainer(callback, losses).fit(Nested(), DataLoader(items, batch_size=recipe.SIZE))
    recipe.assert_same(result(callback, [loss.item() for loss in losses.seen]), recipe.plain())


def test_a_batch_without_the_field_is_named() -> None:
    callback = CounterpointCallback(recipe.plan(), criterion="criterion", fields=Fields(("image",), "label"))
    with pytest.raises(DataError, match="the batch has no tensor at 'image'"):
        make_trainer(callback).fit(Module(), loader())
