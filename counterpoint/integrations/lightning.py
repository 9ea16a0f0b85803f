"""A plan in Lightning's loop: a callback that puts each span around the method of Lightning's that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial, update_wrapper
from inspect import signature
from itertools import count
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from counterpoint.core.engine import Engine
from counterpoint.core.errors import CheckpointError, RunError
from counterpoint.core.events import Event
from counterpoint.core.plan import Plan
from counterpoint.integrations.fields import FIRST_AND_SECOND, Fields

try:
    import lightning.pytorch as pl
    from lightning.pytorch.strategies import ParallelStrategy
    from lightning.pytorch.utilities.model_helpers import is_overridden
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "counterpoint.integrations.lightning needs Lightning: pip install 'counterpoint[lightning]'", name=error.name
    ) from error

from counterpoint.integrations.lightning_limits import check_fit, check_length, check_model

__all__ = ["CounterpointCallback"]


class CounterpointCallback(pl.Callback):
    """Runs a plan in Lightning's loop; give it to ``Trainer(callbacks=[...])``.

    ``criterion`` names the submodule of the ``LightningModule`` that computes the loss, as ``"criterion"`` or
    ``"head.loss"``: while ``training_step`` runs, calling it computes ``plan.loss``, exact on the plan's targets. It
    may be left out where the plan leaves the targets' kind as it is. ``fields`` says where a batch holds its inputs
    and targets. A batch of the loader is a device batch. ``engine`` is the engine, once the trainer has been set up.

    Raises ``CompositionError`` before training with everything that the plan needs and this loop cannot do, and
    ``RunError`` in training if ``training_step`` does not call the criterion.

    >>> import lightning.pytorch as pl, torch, counterpoint as cp
    >>> from counterpoint.integrations.lightning import CounterpointCallback
    >>> plan = cp.compose(["mixup", "ema"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=3)
    >>> callback = CounterpointCallback(plan, criterion="criterion")
    """

    def __init__(self, plan: Plan, *, criterion: str | None = None, fields: Fields = FIRST_AND_SECOND) -> None:
        self.plan, self.criterion, self.fields = plan, criterion, fields
        self._has_steps = any(hook.effect.event in (Event.STEP, Event.UPDATE) for hook in plan.hooks)
        self._engine: Engine | None = None
        self._waiting = ExitStack()  # what stands in the place of Lightning's methods until the loop runs
        self._forward = ExitStack()  # the span of the forward pass, until the loss or the backward pass ends it
        self._losses = 0  # how often this training step computed the loss
        self._open = ExitStack()  # the device batches that the next step takes
        self._group: list[tuple[Any, ...]] = []  # what Lightning's loop was given for each of them
        self._ran: Tensor | None = None  # the loss of the passes over them so far
        self._stepped = False

    @property
    def engine(self) -> Engine:
        """The engine that runs the plan; raises ``RunError`` before the trainer has been set up."""
        if self._engine is None:
            raise RunError("there is no engine yet: call trainer.fit, validate, test or predict first")
        return self._engine

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be done, and get ready for the model to be built and the loop to run."""
        self._waiting.close()
        if stage == "fit":
            check_fit(self.plan, self.criterion, trainer, pl_module)
        # Surgery comes before the checkpoint, the distributed wrapper and the optimizer, and after all layers are made.
        built = "configure_model" if is_overridden("configure_model", pl_module) else "setup"
        self._waiting.enter_context(_instead(pl_module, built, partial(self._make_engine, trainer, pl_module)))
        self._waiting.enter_context(_instead(pl_module, "on_load_checkpoint", partial(self._restore, trainer)))
        if stage == "fit":
            self._waiting.enter_context(_instead(trainer.fit_loop, "run", partial(self._fit, trainer, pl_module)))
        else:
            loops = {"validate": trainer.validate_loop, "test": trainer.test_loop, "predict": trainer.predict_loop}
            self._waiting.enter_context(_instead(loops[stage], "run", partial(self._evaluate, trainer)))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave Lightning's methods as they were."""
        self._waiting.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave Lightning's methods as they were."""
        self._waiting.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what the methods remember and the number of batches done, as tensors by flat names."""
        return {} if self._engine is None else dict(self._engine.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned; raises ``CheckpointError`` for that of other methods."""
        self.engine.load_state_dict(state_dict)

    def _restore(self, trainer: pl.Trainer, load: Callable[..., None], checkpoint: dict[str, Any]) -> None:
        """Take back the state for evaluations too, where not every Lightning restores callbacks."""
        load(checkpoint)
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state:
            self.engine.load_state_dict(state)
        elif trainer.state.fn == "fit":
            raise CheckpointError(
                "the checkpoint is of a run without CounterpointCallback, so that nobody knows which batch comes next: "
                "start a new run from its weights, by load_from_checkpoint and trainer.fit without ckpt_path"
            )

    def _make_engine(
        self, trainer: pl.Trainer, module: pl.LightningModule, build: Callable[..., Any], *given: Any, **named: Any
    ) -> None:
        """Build the model as its author wrote, and make the engine, which may change its modules."""
        build(*given, **named)
        if self._engine is None or self._engine.model is not module:
            module.to(trainer.strategy.root_device)
            self._engine = Engine(self.plan, model=module, rank=trainer.global_rank)

    def _fit(self, trainer: pl.Trainer, module: pl.LightningModule, run: Callable[[], None]) -> None:
        self._waiting.close()
        check_model(self.plan, self.criterion, trainer, module)
        self.engine.optimizer = trainer.optimizers[0]
        epoch = trainer.fit_loop.epoch_loop
        with ExitStack() as replaced:
            for owner, name, instead in (
                (epoch, "run", partial(self._epoch, trainer)),
                (epoch.val_loop, "run", partial(self._evaluate, trainer)),
                (epoch.automatic_optimization, "run", self._batch),
                (epoch.manual_optimization, "run", self._batch),
                (module, "training_step", partial(self._training_step, module)),
                (module, "backward", self._backward),
            ):
                replaced.enter_context(_instead(owner, name, instead))
            if self._has_steps:
                replaced.enter_context(_instead(trainer.strategy, "optimizer_step", partial(self._step, trainer)))
            with self.engine.fit():
                run()

    def _epoch(self, trainer: pl.Trainer, run: Callable[..., None], *given: Any) -> None:
        check_length(self.plan, trainer)
        self._group, self._ran = [], None
        with self.engine.epoch(), ExitStack() as self._open:
            run(*given)

    def _batch(self, run: Callable[..., Any], *given: Any) -> Any:
        """Edit a device batch before Lightning hands it to ``training_step``; it is open until a step has taken it."""
        *others, arguments = given
        edited = self._open.enter_context(self.fields.edited(self.engine, arguments["batch"]))
        self._group.append((*others, type(arguments)({**arguments, "batch": edited})))
        self._stepped = not self._has_steps
        output = run(*self._group[-1])
        if self._stepped:
            self._group, self._ran = [], None
            self._open.close()
        return output

    def _training_step(self, module: pl.LightningModule, step: Callable[..., Any], *given: Any, **named: Any) -> Any:
        self._losses = 0
        with ExitStack() as self._forward:
            self._forward.enter_context(self.engine.forward())
            if self.criterion is None:
                return step(*given, **named)
            with _instead(module.get_submodule(self.criterion), "forward", self._loss):
                return step(*given, **named)

    def _loss(self, forward: Callable[..., Tensor], *given: Any, **named: Any) -> Tensor:
        """Compute the plan's loss in the place of the criterion."""
        parts = signature(forward).bind(*given, **named).args
        if len(parts) != 2:
            raise RunError(f"{self.criterion} was called with {len(parts)} arguments: call it with outputs and targets")
        if self._losses and any(hook.effect.event is Event.FORWARD for hook in self.plan.hooks):
            names = ", ".join(hook.name for hook in self.plan.hooks if hook.effect.event is Event.FORWARD)
            raise RunError(
                f"training_step called {self.criterion} twice, and {names} acts on the forward pass, which the first "
                "call ended: call it once, on all outputs"
            )
        self._forward.close()
        self._losses += 1
        with self.engine.loss():
            return self.plan.loss(*parts)

    def _backward(self, backward: Callable[..., None], loss: Tensor, *given: Any, **named: Any) -> None:
        if self.criterion is not None and not self._losses:
            raise RunError(
                f"training_step computed its loss without self.{self.criterion}, so that it is not the plan's: write "
                f"loss = self.{self.criterion}(outputs, targets)"
            )
        self._forward.close()
        with self.engine.backward():
            backward(loss, *given, **named)
        self._ran = loss.detach() if self._ran is None else self._ran + loss.detach()

    def _step(
        self,
        trainer: pl.Trainer,
        step: Callable[..., Any],
        optimizer: Optimizer,
        closure: Callable[[], Any],
        *given: Any,
        **named: Any,
    ) -> Any:
        """Make the passes, and let Lightning step the optimizer with the gradients that they left."""
        self._stepped = True
        if trainer.lightning_module.automatic_optimization and trainer.accumulate_grad_batches == 1:
            update = self.engine.update(closure)
        else:
            closure()
            if self._ran is None:
                raise RunError(
                    "the optimizer is to step, and no backward pass has been made that can be seen: in manual "
                    "optimization write self.manual_backward(loss) before optimizer.step()"
                )
            update = self.engine.update(partial(self._again, trainer), ran=self._ran)
        with update as loss:
            self._ran = None
            return step(optimizer, _once(loss), *given, **named)

    def _again(self, trainer: pl.Trainer) -> Tensor:
        """Make the passes over every batch of the step once more."""
        losses, strategy = [], trainer.strategy
        for index, (optimizer, number, arguments) in enumerate(self._group):
            closure = trainer.fit_loop.epoch_loop.automatic_optimization._make_closure(arguments, optimizer, number)
            waits = index < len(self._group) - 1 and isinstance(strategy, ParallelStrategy)
            with (
                self.engine.on(index),
                cast(ParallelStrategy, strategy).block_backward_sync() if waits else nullcontext(),
            ):
                loss = closure()
            losses += [] if loss is None else [loss]
        return torch.stack(losses).sum()

    def _evaluate(self, trainer: pl.Trainer, run: Callable[[], Any]) -> Any:
        self._waiting.close()
        with ExitStack() as averaged:
            averaged.enter_context(self.engine.evaluation())
            with _instead(trainer, "save_checkpoint", partial(self._save, averaged)):
                return run()

    def _save(self, averaged: ExitStack, save: Callable[..., None], *given: Any, **named: Any) -> None:
        """Save the weights that training goes on from, in the middle of an evaluation."""
        averaged.close()
        try:
            save(*given, **named)
        finally:
            averaged.enter_context(self.engine.evaluation())


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


@contextmanager
def _instead(owner: object, name: str, call: Callable[..., Any]) -> Iterator[None]:
    """Let ``call(method, ...)`` stand in the place of an object's method for as long as the context lasts."""
    method, before = getattr(owner, name), vars(owner).get(name)
    setattr(owner, name, update_wrapper(partial(call, method), method))
    try:
        yield
    finally:
        delattr(owner, name)
        if before is not None:
            setattr(owner, name, before)
