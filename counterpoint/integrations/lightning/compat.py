"""Parts of Lightning that its documentation does not promise, in one place.

``tests/integrations/lightning/test_compat.py`` fails if one of them is gone, or is no longer called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from enum import Enum
from functools import update_wrapper
from operator import attrgetter
from typing import Any

import lightning.pytorch as pl
from torch.optim import Optimizer

__all__ = ["TRIED", "LoopMethod", "callbacks_of", "instead", "instead_of", "is_trial_run", "passes_again", "trainer_of"]

TRIED = ("2.4.0", "2.6.6")
"""The releases of Lightning that this file was tried on."""


class LoopMethod(Enum):
    """A method that runs a part of Lightning's loops; the value says where a trainer holds it."""

    FIT = "fit_loop.run"
    EPOCH = "fit_loop.epoch_loop.run"
    VALIDATION_IN_FIT = "fit_loop.epoch_loop.val_loop.run"
    AUTOMATIC_BATCH = "fit_loop.epoch_loop.automatic_optimization.run"
    MANUAL_BATCH = "fit_loop.epoch_loop.manual_optimization.run"
    OPTIMIZER_STEP = "strategy.optimizer_step"
    VALIDATE = "validate_loop.run"
    TEST = "test_loop.run"
    PREDICT = "predict_loop.run"
    SAVE = "save_checkpoint"


def instead_of(trainer: pl.Trainer, method: LoopMethod, call: Callable[..., Any]) -> AbstractContextManager[None]:
    """Let ``call(method, ...)`` replace a method of a trainer's loops while the context lasts."""
    *path, name = method.value.split(".")
    owner = attrgetter(".".join(path))(trainer) if path else trainer
    return instead(owner, name, call)


def trainer_of(module: pl.LightningModule) -> pl.Trainer | None:
    """Return the trainer that a module is attached to, if there is one."""
    if module.fabric is not None:  # it has no loops
        return None
    try:
        return module.trainer
    except RuntimeError:
        return None


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return the callbacks of a trainer, an attribute that its class does not declare."""
    return list(vars(trainer)["callbacks"])


def is_trial_run(trainer: pl.Trainer) -> bool:
    """Whether a trainer runs a few batches only, by ``fast_dev_run``, which its class does not declare."""
    return bool(vars(trainer)["fast_dev_run"])


def passes_again(trainer: pl.Trainer, optimizer: Optimizer, batch_idx: int, arguments: Any) -> Callable[[], Any]:
    """Return the forward and backward pass over a batch, given the arguments of ``LoopMethod.AUTOMATIC_BATCH``."""
    closure: Callable[[], Any] = trainer.fit_loop.epoch_loop.automatic_optimization._make_closure(
        arguments, optimizer, batch_idx
    )
    return closure


class _Replaced:
    """A call that stands in the place of an object's method; a copy of the object has the method."""

    def __init__(self, method: Callable[..., Any], call: Callable[..., Any]) -> None:
        self._method, self._call = method, call
        update_wrapper(self, method)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._call(self._method, *given, **named)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return the method of the copy: the call is for one run, to which the copy does not belong."""
        return deepcopy(self._method, memo)


@contextmanager
def instead(owner: object, name: str, call: Callable[..., Any]) -> Iterator[None]:
    """Let ``call(method, ...)`` stand in the place of an object's method for as long as the context lasts."""
    before = vars(owner).get(name)
    setattr(owner, name, _Replaced(getattr(owner, name), call))
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)
