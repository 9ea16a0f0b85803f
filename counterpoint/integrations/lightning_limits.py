"""What Lightning's loop cannot do, found before it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from inspect import signature

import lightning.pytorch as pl
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from counterpoint.core.effects import Phase
from counterpoint.core.errors import CompositionError
from counterpoint.core.events import Event
from counterpoint.core.faults import Fault
from counterpoint.core.kinds import Field
from counterpoint.core.plan import Plan
from counterpoint.core.steps import BatchStep, HookStep

__all__ = ["check_fit", "check_length", "check_model"]

_TAKE_OVER = (
    "make the loss a module, as self.criterion = torch.nn.CrossEntropyLoss(), write loss = self.criterion(outputs, "
    "targets) in training_step, and name it: CounterpointCallback(plan, criterion='criterion')"
)


def check_fit(plan: Plan, criterion: str | None, trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Raise ``CompositionError`` with everything that the plan needs and this loop cannot do."""
    _refuse(
        *_batches(plan, module),
        *_losses(plan, criterion),
        *_steps(plan, trainer, module),
        *_gradients(plan, trainer),
        *_strategies(plan, trainer),
    )


def check_model(plan: Plan, criterion: str | None, trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Raise ``CompositionError`` for what is known once the model and the optimizers are made."""
    _refuse(*_criteria(criterion, module), *_optimizers(plan, trainer, module))


def check_length(plan: Plan, trainer: pl.Trainer) -> None:
    """Raise ``CompositionError`` if the plan was composed for another number of batches than the run has.

    Lightning's ``fast_dev_run``, which tries out one batch, is let through.
    """
    if vars(trainer)["fast_dev_run"]:
        return
    clock, epoch = plan.facts.clock, trainer.num_training_batches
    endless = trainer.max_epochs in (None, -1) or trainer.max_steps != -1
    total = None if endless else epoch * (trainer.max_epochs or 0)
    _refuse(
        *_length("steps_per_epoch", clock.steps_per_epoch, epoch, str(epoch)),
        *_length("max_duration", clock.total, total, f"'{trainer.max_epochs}ep'"),
    )


def _length(key: str, stated: int | None, found: float | None, right: str) -> Iterator[Fault]:
    if stated is not None and found is not None and stated != found:
        message = f"the plan was composed with a {key} of {stated} batches, and Lightning is to train for {found}"
        yield Fault("loop-limit", message, f"give compose {key}={right}", event=Event.EPOCH)


def _refuse(*faults: Fault) -> None:
    if faults:
        raise CompositionError(faults)


def _criteria(criterion: str | None, module: pl.LightningModule) -> Iterator[Fault]:
    if criterion is not None and criterion not in dict(module.named_modules()):
        message = f"criterion={criterion!r} names no module of {type(module).__name__}"
        yield Fault("loop-limit", message, _TAKE_OVER, event=Event.LOSS)


def _optimizers(plan: Plan, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Fault]:
    count = len(trainer.optimizers)
    if count > 1 and plan.hooks:
        yield _fault(
            plan.hooks,
            f"acts on the training state, and configure_optimizers returned {count} optimizers, of which each makes "
            "steps of its own",
            "return one optimizer with several param_groups, or leave {names} out",
            Event.STEP,
        )
    surgery = [hook for hook in plan.hooks if hook.effect.event is Event.SETUP]
    own = set(map(id, module.parameters()))
    held = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    if surgery and any(id(parameter) not in own for parameter in held):
        yield _fault(
            surgery,
            "changed the model's modules, and the optimizer holds parameters that are no longer the model's",
            "make the optimizer in configure_optimizers, not before",
            Event.SETUP,
            code="late-surgery",
        )


def _batches(plan: Plan, module: pl.LightningModule) -> Iterator[Fault]:
    changing = [step for step in plan.steps if step.before.get(Field.INPUTS) != step.after.get(Field.INPUTS)]
    if changing:
        yield _fault(
            changing,
            "changes the kind of the inputs, and Lightning evaluates on batches as they come, which nothing changes",
            "do that to training and evaluation data alike, in the data set or in on_after_batch_transfer, and tell "
            "compose by inputs=... what comes out",
            Event.BATCH,
        )
    if "dataloader_iter" in signature(module.training_step).parameters:
        yield _fault(
            plan.steps or plan.hooks,
            "acts on each batch, and training_step takes dataloader_iter, so that nobody else sees a batch",
            "write training_step(self, batch, batch_idx)",
            Event.BATCH,
        )
    comparing = [step for step in plan.steps if any(effect.sample_losses for effect in step.effects)]
    if comparing and not is_overridden("forward", module):
        yield _fault(
            comparing,
            "runs the model on the inputs, and the LightningModule has no forward",
            "write forward(self, inputs), which returns the outputs that the loss takes",
            Event.BATCH,
        )


def _losses(plan: Plan, criterion: str | None) -> Iterator[Fault]:
    if criterion is not None:
        if plan.loss_spec is None:
            message, fix = (
                "is to compute the plan's loss, and the plan has none",
                "give compose a loss=, or leave it out",
            )
            yield Fault("loop-limit", f"criterion={criterion!r} {message}", fix, event=Event.LOSS)
        return
    changing = [step for step in plan.steps if step.before.get(Field.TARGETS) != step.after.get(Field.TARGETS)]
    if changing:
        yield _fault(
            changing, "changes the kind of the targets, and the loss is not the plan's", _TAKE_OVER, Event.LOSS
        )
    acting = [hook for hook in plan.hooks if hook.effect.event is Event.LOSS]
    if acting:
        yield _fault(acting, "acts at the loss, which Lightning does not show", _TAKE_OVER, Event.LOSS)


def _steps(plan: Plan, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[Fault]:
    whole = [hook for hook in plan.hooks if hook.effect.event is Event.STEP and hook.effect.phase is not Phase.AFTER]
    if not module.automatic_optimization:
        if whole:
            yield _fault(
                whole,
                "runs the passes of a step, and in manual optimization training_step makes them by itself",
                "set self.automatic_optimization = True, or leave {names} out",
                Event.STEP,
            )
        return
    parts = trainer.accumulate_grad_batches
    first = [hook for hook in whole if hook.effect.phase is not Phase.REPLACE]
    if parts > 1 and first:
        yield _fault(
            first,
            f"acts before the passes of a step, and with accumulate_grad_batches={parts} Lightning has made most of "
            "them by then",
            f"load batches of {parts} times the size and set accumulate_grad_batches=1, or leave {{names}} out",
            Event.STEP,
        )


def _gradients(plan: Plan, trainer: pl.Trainer) -> Iterator[Fault]:
    using = [hook for hook in plan.hooks if Field.GRADIENTS in hook.effect.reads | hook.effect.writes]
    again = [hook for hook in plan.hooks if hook.effect.phase is Phase.REPLACE]
    precision = trainer.precision_plugin
    if isinstance(precision, MixedPrecision) and precision.scaler is not None and (using or again):
        yield _fault(
            [*using, *again],
            "uses gradients, which precision='16-mixed' scales",
            "set precision='bf16-mixed'",
            Event.UPDATE,
        )
    clipping = [hook for hook in using if hook.effect.event is Event.UPDATE and Field.GRADIENTS in hook.effect.writes]
    if trainer.gradient_clip_val and clipping:
        yield _fault(
            clipping,
            f"edits gradients before each update, and so does gradient_clip_val={trainer.gradient_clip_val}",
            "do it in one place: leave {names} or gradient_clip_val out",
            Event.UPDATE,
        )


def _strategies(plan: Plan, trainer: pl.Trainer) -> Iterator[Fault]:
    known = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
    if plan.hooks and (not known or isinstance(trainer.strategy, DeepSpeedStrategy)):
        yield _fault(
            plan.hooks,
            f"acts on the training state, which {type(trainer.strategy).__name__} may split or step in its own way",
            "use strategy='ddp' or one device, or leave {names} out",
            Event.FIT,
        )


def _fault(
    parties: Iterable[BatchStep | HookStep], message: str, fix: str, event: Event, *, code: str = "loop-limit"
) -> Fault:
    """Return a fault of steps with the loop; ``{names}`` in the fix are theirs."""
    names = tuple(dict.fromkeys(step.name for step in parties))
    words = ", ".join(names)
    return Fault(code, f"{words} {message}", fix.format(names=words), names, event)
