"""A plan in Lightning's loop, as a callback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from counterpoint.core.errors import CheckpointError, RunError
from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.engine import Engine
from counterpoint.integrations.average import TRAINED
from counterpoint.integrations.criterion import with_loss
from counterpoint.integrations.fields import FIRST_AND_SECOND, Fields
from counterpoint.integrations.lightning.compat import LoopMethod, callbacks_of, instead, instead_of, trainer_of
from counterpoint.integrations.lightning.events import FitEvents, evaluate
from counterpoint.integrations.lightning.limits import check_fit, check_loss, check_model

__all__ = ["CounterpointCallback", "original_targets"]


_STAGES = {
    "fit": LoopMethod.FIT,
    "validate": LoopMethod.VALIDATE,
    "test": LoopMethod.TEST,
    "predict": LoopMethod.PREDICT,
}


def original_targets(module: pl.LightningModule, targets: Tensor) -> Tensor:
    """Return the targets as the loader gave them, for metrics; to be called in a step of the module.

    ``targets`` are those of the batch that the step was given. While it trains with a ``CounterpointCallback`` they are
    edited; elsewhere they are returned as they are.

    >>> import torch
    >>> original_targets(pl.LightningModule(), torch.tensor([1, 2]))
    tensor([1, 2])
    """
    trainer = trainer_of(module)
    if trainer is None or not trainer.training:
        return targets
    callbacks = (held for held in callbacks_of(trainer) if isinstance(held, CounterpointCallback))
    callback = next(callbacks, None)
    return targets if callback is None else callback.engine.original


class CounterpointCallback(pl.Callback):
    """Runs a plan in Lightning's loop; give it to ``Trainer(callbacks=[...])``.

    ``criterion`` names the submodule of the ``LightningModule`` that computes the loss, as ``"criterion"`` or
    ``"head.loss"``: while ``training_step`` runs, calling it computes ``plan.loss``, exact on the plan's targets. It
    may be left out where the plan leaves the targets' kind as it is. ``fields`` says where a batch holds its inputs
    and targets. A batch of the loader is a device batch. ``engine`` is the engine, once the trainer has been set up.
    With ``save_average``, ``state_dict`` in a checkpoint holds the weights for evaluation, and those in training are
    beside it: a checkpoint that was chosen by a metric of the average then loads as the average.

    Raises ``CompositionError`` before training with everything that the plan needs and this loop cannot do. Raises
    ``RunError`` in training if ``training_step`` does not call the criterion. Raises ``CheckpointError`` for a
    checkpoint of another plan or of other versions, which ``allow_changes`` accepts.

    >>> import lightning.pytorch as pl, torch, counterpoint as cp
    >>> from counterpoint.integrations.lightning import CounterpointCallback
    >>> plan = cp.compose(["mixup", "ema"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=3)
    >>> callback = CounterpointCallback(plan, criterion="criterion")
    """

    def __init__(
        self,
        plan: Plan,
        *,
        criterion: str | None = None,
        fields: Fields = FIRST_AND_SECOND,
        save_average: bool = False,
        allow_changes: bool = False,
    ) -> None:
        self.plan, self.criterion, self.fields = plan, criterion, fields
        self.save_average, self.allow_changes = save_average, allow_changes
        self._trains = False
        self._engine: Engine | None = None
        self._waiting = ExitStack()  # what stands in the place of Lightning's methods until the loop runs

    @property
    def engine(self) -> Engine:
        """The engine that runs the plan; raises ``RunError`` before the trainer has been set up."""
        if self._engine is None:
            raise RunError("there is no engine yet: call trainer.fit, validate, test or predict first")
        return self._engine

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be done, and get ready for the model to be built and the loop to run."""
        self._waiting.close()
        self._trains = stage == "fit"
        if self._trains:
            check_fit(self.plan, self.criterion, trainer, pl_module)
        # Surgery comes before the checkpoint, the distributed wrapper and the optimizer, and after all layers are made.
        built = "configure_model" if is_overridden("configure_model", pl_module) else "setup"
        self._waiting.enter_context(instead(pl_module, built, partial(self._make_engine, trainer, pl_module)))
        self._waiting.enter_context(instead(pl_module, "on_load_checkpoint", partial(self._restore, trainer)))
        call = partial(self._fit, trainer, pl_module) if self._trains else partial(self._evaluate, trainer)
        self._waiting.enter_context(instead_of(trainer, _STAGES[stage], call))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave Lightning's methods as they were."""
        self._waiting.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave Lightning's methods as they were."""
        self._waiting.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the methods and the number of batches done, as tensors by flat names."""
        return {} if self._engine is None else dict(self._engine.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` returned.

        Raises ``CheckpointError`` for that of other methods, and in training for that of another plan or other
        versions, unless these are allowed.
        """
        self.engine.load_state_dict(state_dict, allow_changes=self.allow_changes or not self._trains)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the weights for evaluation where others look for weights, if asked to, and those in training beside."""
        if self.save_average:
            checkpoint[TRAINED] = checkpoint["state_dict"]
            with self.engine.evaluation():
                checkpoint["state_dict"] = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def _restore(self, trainer: pl.Trainer, load: Callable[..., None], checkpoint: dict[str, Any]) -> None:
        """Take back the state for evaluations too, where not every Lightning restores callbacks."""
        load(checkpoint)
        checkpoint["state_dict"] = checkpoint.pop(TRAINED, checkpoint["state_dict"])
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if state:
            self.load_state_dict(state)
        elif trainer.state.fn == "fit":
            raise CheckpointError(
                "the checkpoint is of a run without CounterpointCallback, and does not say which batch comes next: "
                "start a new run from its weights, by load_from_checkpoint and trainer.fit without ckpt_path"
            )

    def _make_engine(
        self, trainer: pl.Trainer, module: pl.LightningModule, build: Callable[..., Any], *given: Any, **named: Any
    ) -> None:
        """Build the model as its author wrote, and make the engine, which may change its modules."""
        build(*given, **named)
        if trainer.state.fn == "fit":
            check_loss(self.plan, self.criterion, module)
        if self.criterion is not None and self.plan.loss_spec is None:
            self.plan = with_loss(self.plan, module.get_submodule(self.criterion))
        if self._engine is None or self._engine.model is not module:
            module.to(trainer.strategy.root_device)
            self._engine = Engine(self.plan, model=module, rank=trainer.global_rank)

    def _fit(self, trainer: pl.Trainer, module: pl.LightningModule, run: Callable[[], None]) -> None:
        self._waiting.close()
        check_model(self.plan, trainer, module)
        self.engine.optimizer = trainer.optimizers[0]
        FitEvents(self.engine, self.criterion, self.fields, trainer).run(run)

    def _evaluate(self, trainer: pl.Trainer, run: Callable[[], Any]) -> Any:
        self._waiting.close()
        return evaluate(self.engine, trainer, run)
