"""A plan's spans in Lightning's training loop, each around the method of Lightning's that runs it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from inspect import signature
from itertools import count
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor
from torch.optim import Optimizer

from counterpoint.core.declare.events import Event
from counterpoint.core.errors import RunError
from counterpoint.core.run.training.engine import Engine
from counterpoint.integrations.fields import Fields
from counterpoint.integrations.lightning.compat import LoopMethod, instead, instead_of, passes_again
from counterpoint.integrations.lightning.limits import check_length

__all__ = ["FitEvents", "evaluate"]


class FitEvents:
    """One run of Lightning's training loop, with a plan's spans around the methods that run it."""

    def __init__(self, engine: Engine, criterion: str | None, fields: Fields, trainer: pl.Trainer) -> None:
        self._engine, self._plan, self._criterion, self._fields = engine, engine.plan, criterion, fields
        self._trainer, self._module = trainer, trainer.lightning_module
        self._has_steps = any(hook.effect.event in (Event.STEP, Event.UPDATE) for hook in self._plan.hooks)
        self._open = ExitStack()  # the device batches that the next step takes
        self._group: list[tuple[Any, ...]] = []  # what Lightning's loop was given for each of them
        self._ran: Tensor | None = None  # the loss of the passes over them so far
        self._stepped = False  # whether this batch ended a step
        self._forward = ExitStack()  # the span of the forward pass, until the loss or the backward pass ends it
        self._losses = 0  # how often this training step computed the loss

    def run(self, run: Callable[[], None]) -> None:
        """Run the loop."""
        engine, trainer = self._engine, self._trainer
        methods: dict[LoopMethod, Callable[..., Any]] = {
            LoopMethod.EPOCH: self._epoch,
            LoopMethod.VALIDATION_IN_FIT: partial(evaluate, engine, trainer),
            LoopMethod.AUTOMATIC_BATCH: self._batch,
            LoopMethod.MANUAL_BATCH: self._batch,
        }
        if self._has_steps:
            methods[LoopMethod.OPTIMIZER_STEP] = self._step
        with ExitStack() as replaced:
            for method, call in methods.items():
                replaced.enter_context(instead_of(trainer, method, call))
            replaced.enter_context(instead(self._module, "training_step", self._training_step))
            replaced.enter_context(instead(self._module, "backward", self._backward))
            with engine.fit():
                run()

    def _epoch(self, run: Callable[..., None], *given: Any) -> None:
        check_length(self._plan, self._trainer)
        self._group, self._ran = [], None
        with self._engine.epoch(), ExitStack() as self._open:
            run(*given)

    def _batch(self, run: Callable[..., Any], *given: Any) -> Any:
        """Edit a device batch before Lightning hands it to ``training_step``; it is open until a step has taken it."""
        *others, arguments = given
        edited = self._open.enter_context(self._fields.edited(self._engine, arguments["batch"]))
        self._group.append((*others, type(arguments)({**arguments, "batch": edited})))
        self._stepped = not self._has_steps
        output = run(*self._group[-1])
        if self._stepped:
            self._group, self._ran = [], None
            self._open.close()
        return output

    def _training_step(self, step: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self._losses = 0
        with ExitStack() as self._forward:
            self._forward.enter_context(self._engine.forward())
            if self._criterion is None:
                return step(*given, **named)
            with instead(self._module.get_submodule(self._criterion), "forward", self._loss):
                return step(*given, **named)

    def _loss(self, forward: Callable[..., Tensor], *given: Any, **named: Any) -> Tensor:
        """Compute the plan's loss in the place of the criterion."""
        parts = signature(forward).bind(*given, **named).args
        if len(parts) != 2:
            raise RunError(
                f"{self._criterion} was called with {len(parts)} arguments: call it with outputs and targets"
            )
        if self._losses and any(hook.effect.event is Event.FORWARD for hook in self._plan.hooks):
            names = ", ".join(hook.name for hook in self._plan.hooks if hook.effect.event is Event.FORWARD)
            raise RunError(
                f"training_step called {self._criterion} twice, and {names} acts on the forward pass, which the first "
                "call ended: call it once, on all outputs"
            )
        self._forward.close()
        self._losses += 1
        with self._engine.loss():
            return self._plan.loss(*parts)

    def _backward(self, backward: Callable[..., None], loss: Tensor, *given: Any, **named: Any) -> None:
        if self._criterion is not None and not self._losses:
            raise RunError(
                f"training_step computed its loss without self.{self._criterion}, so that it is not the plan's: write "
                f"loss = self.{self._criterion}(outputs, targets)"
            )
        self._forward.close()
        with self._engine.backward():
            backward(loss, *given, **named)
        self._ran = loss.detach() if self._ran is None else self._ran + loss.detach()

    def _step(
        self,
        step: Callable[..., Any],
        optimizer: Optimizer,
        closure: Callable[[], Any],
        *given: Any,
        **named: Any,
    ) -> Any:
        """Make the passes, and let Lightning step the optimizer with the gradients that they left."""
        self._stepped = True
        if self._module.automatic_optimization and len(self._group) == 1:
            update = self._engine.update(closure)
        else:
            closure()
            if self._ran is None:
                raise RunError(
                    "the optimizer is to step, and no backward pass has been made that can be seen: in manual "
                    "optimization write self.manual_backward(loss) before optimizer.step()"
                )
            update = self._engine.update(self._again, ran=self._ran)
        with update as loss:
            self._ran = None
            return step(optimizer, _once(loss), *given, **named)

    def _again(self) -> Tensor:
        """Make the passes over every batch of the step once more."""
        losses, strategy = [], self._trainer.strategy
        for index, (optimizer, number, arguments) in enumerate(self._group):
            closure = passes_again(self._trainer, optimizer, number, arguments)
            waits = index < len(self._group) - 1 and isinstance(strategy, ParallelStrategy)
            with (
                self._engine.on(index),
                cast(ParallelStrategy, strategy).block_backward_sync() if waits else nullcontext(),
            ):
                loss = closure()
            losses += [] if loss is None else [loss]
        return torch.stack(losses).sum()


def evaluate(engine: Engine, trainer: pl.Trainer, run: Callable[[], Any]) -> Any:
    """Run a loop on the weights for evaluation, which checkpoints that are saved meanwhile do not hold."""
    with ExitStack() as averaged:
        averaged.enter_context(engine.evaluation())

        def save(save: Callable[..., None], *given: Any, **named: Any) -> None:
            averaged.close()
            try:
                save(*given, **named)
            finally:
                averaged.enter_context(engine.evaluation())

        with instead_of(trainer, LoopMethod.SAVE, save):
            return run()


def _once(loss: object) -> Callable[[], object]:
    """Return a closure for an optimizer that returns the loss of passes that are made, once."""
    calls = count()

    def closure() -> object:
        if next(calls):
            raise RunError(
                "the optimizer computes the loss more than once in a step, as LBFGS does, which a plan with hooks at "
                "the step cannot go with: use an optimizer that takes gradients"
            )
        return loss

    return closure
