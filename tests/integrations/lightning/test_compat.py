"""The parts of Lightning that it does not promise are there, take what they are given, and run what they are for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from counterpoint.integrations.lightning.compat import (
    LoopMethod,
    callbacks_of,
    instead_of,
    is_trial_run,
    passes_again,
    trainer_of,
)
from tests.integrations import recipe
from tests.integrations.lit import QUIET, Module, loader, make_trainer

pytestmark = QUIET

TAKES = {
    LoopMethod.FIT: [],
    LoopMethod.EPOCH: ["data_fetcher"],
    LoopMethod.AUTOMATIC_BATCH: ["optimizer", "batch_idx", "kwargs"],
    LoopMethod.MANUAL_BATCH: ["kwargs"],
    LoopMethod.OPTIMIZER_STEP: ["optimizer", "closure", "model", "kwargs"],
    LoopMethod.SAVE: ["filepath", "weights_only", "storage_options"],
}
"""What the methods take; those of evaluations are wrapped, and are called without arguments."""


class Evaluated(Module):
    """A module with every step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch[0])


def counted(trainer: pl.Trainer, run: Callable[[], object]) -> Counter[LoopMethod]:
    """Run with every method replaced by one that counts its calls."""
    calls: Counter[LoopMethod] = Counter()

    def call(method: LoopMethod, original: Callable[..., Any], *given: Any, **named: Any) -> Any:
        calls[method] += 1
        return original(*given, **named)

    with ExitStack() as replaced:
        for method in LoopMethod:
            replaced.enter_context(instead_of(trainer, method, partial(call, method)))
        run()
    return calls


@pytest.mark.parametrize("method", TAKES)
def test_each_method_takes_what_it_is_given(method: LoopMethod) -> None:
    assert list(signature(attrgetter(method.value)(make_trainer())).parameters) == TAKES[method]


@pytest.mark.parametrize("kind", [SingleDeviceStrategy, DDPStrategy])
def test_the_strategies_that_are_let_through_step_by_the_same_method(kind: type[Any]) -> None:
    assert list(signature(kind.optimizer_step).parameters) == ["self", *TAKES[LoopMethod.OPTIMIZER_STEP]]
    assert callable(DDPStrategy.block_backward_sync)


@pytest.mark.parametrize("manual", [False, True])
def test_training_calls_each_method_as_often_as_it_runs_its_part(manual: bool) -> None:
    trainer, module = make_trainer(max_epochs=2), Evaluated(manual_parts=int(manual))
    calls = counted(trainer, lambda: trainer.fit(module, loader(), loader()))
    batch = LoopMethod.MANUAL_BATCH if manual else LoopMethod.AUTOMATIC_BATCH
    assert calls == {
        LoopMethod.FIT: 1,
        LoopMethod.EPOCH: 2,
        LoopMethod.VALIDATION_IN_FIT: 3,  # once before training
        batch: 2 * recipe.STEPS,
        LoopMethod.OPTIMIZER_STEP: 2 * recipe.STEPS,
    }


@pytest.mark.parametrize(
    ("name", "method"), [("validate", LoopMethod.VALIDATE), ("test", LoopMethod.TEST), ("predict", LoopMethod.PREDICT)]
)
def test_each_evaluation_runs_its_loop(name: str, method: LoopMethod) -> None:
    trainer = make_trainer()
    assert counted(trainer, lambda: getattr(trainer, name)(Evaluated(), loader())) == {method: 1}


def test_checkpoints_are_saved_by_the_method_of_the_trainer(tmp_path: Path) -> None:
    saving = pl.callbacks.ModelCheckpoint(dirpath=tmp_path)
    trainer = make_trainer(saving, enable_checkpointing=True)
    assert counted(trainer, lambda: trainer.fit(Module(), loader()))[LoopMethod.SAVE] == 1


def test_the_methods_are_put_back() -> None:
    trainer = make_trainer()
    before = {method: attrgetter(method.value)(trainer) for method in LoopMethod}
    counted(trainer, lambda: None)
    assert before == {method: attrgetter(method.value)(trainer) for method in LoopMethod}


def test_passes_can_be_made_again() -> None:
    """The gradient of a second pass over the same batch is that of the first."""
    gradients: list[torch.Tensor] = []

    def again(run: Callable[..., Any], optimizer: Any, number: int, arguments: Any) -> Any:
        for _ in range(2):
            assert passes_again(trainer, optimizer, number, arguments)() is not None
            gradients.append(module.net[1].weight.grad.clone())
        return run(optimizer, number, arguments)

    trainer, module = make_trainer(limit_train_batches=1), Module()
    with instead_of(trainer, LoopMethod.AUTOMATIC_BATCH, again):
        trainer.fit(module, loader())
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_a_module_has_its_trainer_or_none() -> None:
    class Sees(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append(trainer_of(self))
            return super().training_step(batch, batch_idx)

    seen: list[pl.Trainer | None] = []
    trainer, module = make_trainer(limit_train_batches=1), Sees()
    assert trainer_of(module) is None
    trainer.fit(module, loader())
    assert seen == [trainer]


def test_a_module_in_fabric_has_no_trainer() -> None:
    from lightning.fabric import Fabric

    module = Module()
    module.fabric = Fabric(accelerator="cpu", devices=1)
    assert trainer_of(module) is None


def test_attributes_that_the_trainer_does_not_declare() -> None:
    callback = pl.Callback()
    assert callback in callbacks_of(make_trainer(callback))
    assert is_trial_run(make_trainer(fast_dev_run=True))
    assert not is_trial_run(make_trainer())
