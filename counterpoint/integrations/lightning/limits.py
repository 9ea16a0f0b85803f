"""What Lightning's loop cannot do, found before it trains."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from inspect import signature

import lightning.pytorch as pl
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from counterpoint.core.declare.effects import Phase
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import Field
from counterpoint.core.faults import Fault
from counterpoint.core.run.plan import Plan
from counterpoint.integrations import consistency
from counterpoint.integrations.criterion import compare_losses, loss_modules
from counterpoint.integrations.lightning.compat import callbacks_of, is_trial_run
from counterpoint.integrations.limits import (
    changes_kind,
    compares_losses,
    fault_of_steps,
    raise_faults,
    repeats_passes,
    uses_gradients,
)

__all__ = ["check_fit", "check_length", "check_loss", "check_model"]

_LOG = logging.getLogger(__name__)

_TAKE_OVER = (
    "make the loss a module, as self.criterion = torch.nn.CrossEntropyLoss(), write loss = self.criterion(outputs, "
    "targets) in training_step, and name it: CounterpointCallback(plan, criterion='criterion')"
)


def check_fit(plan: Plan, criterion: str | None, trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Raise ``CompositionError`` with everything that the plan needs and this loop cannot do."""
    raise_faults(
        [
            *_stated(plan, trainer, module),
            *_batches(plan, module),
            *_losses(plan, criterion),
            *_steps(plan, trainer, module),
            *_gradients(plan, trainer, module),
            *_strategies(plan, trainer),
        ]
    )


def check_model(plan: Plan, trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Raise ``CompositionError`` for what is known once the model and the optimizers are made."""
    raise_faults(_optimizers(plan, trainer, module))


def check_loss(plan: Plan, criterion: str | None, module: pl.LightningModule) -> None:
    """Raise ``CompositionError`` where the module that computes the loss is not there, or differs from the plan's."""
    if criterion is None:
        found_losses = loss_modules(module)
        if plan.loss_spec is not None and not found_losses:
            _LOG.warning(
                "the plan's loss, %s, is not used: training_step computes its own. To train on the plan's, %s",
                plan.loss_spec.name,
                _TAKE_OVER,
            )
        raise_faults(compare_losses(plan, found_losses))
        return
    found = dict(module.named_modules()).get(criterion)
    if found is None:
        message = f"criterion={criterion!r} names no module of {type(module).__name__}"
        raise_faults([Fault("loop-limit", message, _TAKE_OVER, event=Event.LOSS)])
    else:
        raise_faults(compare_losses(plan, {criterion: found}))


def check_length(plan: Plan, trainer: pl.Trainer) -> None:
    """Raise ``CompositionError`` if the plan was composed for other batches, or another number of them, than there are.

    Lightning's ``fast_dev_run``, which tries out one batch, is let through.
    """
    if is_trial_run(trainer):
        return
    clock, epoch = plan.facts.clock, trainer.num_training_batches
    endless = trainer.max_epochs in (None, -1) or trainer.max_steps != -1
    total = None if endless else epoch * (trainer.max_epochs or 0)
    raise_faults(
        [
            *_length("steps_per_epoch", clock.steps_per_epoch, epoch, str(epoch)),
            *_length("max_duration", clock.total, total, f"'{trainer.max_epochs}ep'"),
            *consistency.batch_size(
                plan, getattr(trainer.train_dataloader, "batch_size", None), "the train_dataloader"
            ),
        ]
    )


def _length(key: str, stated: int | None, found: float | None, right: str) -> Iterator[Fault]:
    if stated is not None and found is not None and stated != found:
        message = f"the plan was composed with a {key} of {stated} batches, and Lightning is to train for {found}"
        yield Fault("loop-limit", message, f"give compose {key}={right}", event=Event.EPOCH)


def _optimizers(plan: Plan, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Fault]:
    count = len(trainer.optimizers)
    if count > 1 and plan.hooks:
        yield fault_of_steps(
            plan.hooks,
            f"acts on the training state, and configure_optimizers returned {count} optimizers, each with "
            "steps of its own",
            "return one optimizer with several param_groups, or leave {names} out",
            Event.STEP,
        )
    surgery = [hook for hook in plan.hooks if hook.effect.event is Event.SETUP]
    own = set(map(id, module.parameters()))
    held = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    if surgery and any(id(parameter) not in own for parameter in held):
        yield fault_of_steps(
            surgery,
            "changed the model's modules, and the optimizer holds parameters that are no longer the model's",
            "make the optimizer in configure_optimizers, not before",
            Event.SETUP,
            code="late-surgery",
        )


def _stated(plan: Plan, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Fault]:
    """Find what is stated to the plan, and otherwise to Lightning or the module."""
    yield from consistency.classes(plan, getattr(module, "num_classes", None), "self.num_classes")
    yield from consistency.classes(plan, module.hparams.get("num_classes"), "self.hparams.num_classes")
    yield from consistency.averages(plan, module, [type(held).__name__ for held in _averaging(trainer)])
    yield from consistency.microbatches(plan, trainer.accumulate_grad_batches, "accumulate_grad_batches")
    seed = os.environ.get("PL_GLOBAL_SEED")
    yield from consistency.seed(plan, None if seed is None else int(seed), "that of seed_everything")
    surgery = [hook for hook in plan.hooks if hook.effect.event is Event.SETUP]
    others = [type(held).__name__ for held in _averaging(trainer)]
    if surgery and others:
        yield fault_of_steps(
            surgery,
            f"changes the model's modules, and {others[0]} may hold a copy from before",
            f"leave {others[0]} out, and list ema or swa in the plan; or leave {{names}} out",
            Event.SETUP,
        )


def _averaging(trainer: pl.Trainer) -> list[pl.Callback]:
    """Return Lightning's own callbacks that average weights."""
    known = tuple(
        kind
        for name in ("StochasticWeightAveraging", "WeightAveraging")
        if (kind := getattr(pl.callbacks, name, None)) is not None  # the second came with Lightning 2.6
    )
    return [held for held in callbacks_of(trainer) if isinstance(held, known)]


def _batches(plan: Plan, module: pl.LightningModule) -> Iterator[Fault]:
    changing = changes_kind(plan, Field.INPUTS)
    if changing:
        yield fault_of_steps(
            changing,
            "changes the kind of the inputs, and Lightning evaluates on batches as they come, which nothing changes",
            "do that to both training and evaluation data, in the data set or in on_after_batch_transfer, and tell "
            "compose by inputs=... what comes out",
            Event.BATCH,
        )
    if "dataloader_iter" in signature(module.training_step).parameters:
        yield fault_of_steps(
            plan.steps or plan.hooks,
            "acts on each batch, and training_step takes dataloader_iter, so that only training_step sees a batch",
            "write training_step(self, batch, batch_idx)",
            Event.BATCH,
        )
    comparing = compares_losses(plan)
    if comparing and not is_overridden("forward", module):
        yield fault_of_steps(
            comparing,
            "runs the model on the inputs, and the LightningModule has no forward",
            "write forward(self, inputs), which returns the outputs that the loss takes",
            Event.BATCH,
        )


def _losses(plan: Plan, criterion: str | None) -> Iterator[Fault]:
    if criterion is not None:
        return
    changing = changes_kind(plan, Field.TARGETS)
    if changing:
        yield fault_of_steps(
            changing, "changes the kind of the targets, and the loss is not the plan's", _TAKE_OVER, Event.LOSS
        )
    acting = [hook for hook in plan.hooks if hook.effect.event is Event.LOSS]
    if acting:
        yield fault_of_steps(acting, "acts at the loss, which Lightning does not show", _TAKE_OVER, Event.LOSS)


def _steps(plan: Plan, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Fault]:
    whole = [hook for hook in plan.hooks if hook.effect.event is Event.STEP and hook.effect.phase is not Phase.AFTER]
    if not module.automatic_optimization:
        if whole:
            yield fault_of_steps(
                whole,
                "runs the passes of a step, and in manual optimization training_step makes them",
                "set self.automatic_optimization = True, or leave {names} out",
                Event.STEP,
            )
        return
    parts = trainer.accumulate_grad_batches
    first = [hook for hook in whole if hook.effect.phase is not Phase.REPLACE]
    if parts > 1 and first:
        yield fault_of_steps(
            first,
            f"acts before the passes of a step, and with accumulate_grad_batches={parts} Lightning has made most of "
            "them by then",
            f"load batches of {parts} times the size and set accumulate_grad_batches=1, or leave {{names}} out",
            Event.STEP,
        )


def _gradients(plan: Plan, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Fault]:
    using, again = uses_gradients(plan), repeats_passes(plan)
    precision = trainer.precision_plugin
    if isinstance(precision, MixedPrecision) and precision.scaler is not None and (using or again):
        yield fault_of_steps(
            [*using, *again],
            "uses gradients, which precision='16-mixed' scales",
            "set precision='bf16-mixed'",
            Event.UPDATE,
        )
    clipping = [hook for hook in using if hook.effect.event is Event.UPDATE and Field.GRADIENTS in hook.effect.writes]
    if is_overridden("configure_gradient_clipping", module) and clipping:
        yield fault_of_steps(
            clipping,
            f"edits gradients before each update, and so does {type(module).__name__}.configure_gradient_clipping",
            "do it in one place: leave {names} or configure_gradient_clipping out",
            Event.UPDATE,
        )
    if trainer.gradient_clip_val and clipping:
        yield fault_of_steps(
            clipping,
            f"edits gradients before each update, and so does gradient_clip_val={trainer.gradient_clip_val}",
            "do it in one place: leave {names} or gradient_clip_val out",
            Event.UPDATE,
        )


def _strategies(plan: Plan, trainer: pl.Trainer) -> Iterator[Fault]:
    known = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
    if plan.hooks and (not known or isinstance(trainer.strategy, DeepSpeedStrategy)):
        yield fault_of_steps(
            plan.hooks,
            f"acts on the training state, which {type(trainer.strategy).__name__} may split or step in its own way",
            "use strategy='ddp' or one device, or leave {names} out",
            Event.FIT,
        )
