"""A plan in Hugging Face's ``Trainer``: a subclass that edits the batches of each step, and fires the spans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from counterpoint.core.errors import DataError, NonFiniteLossError, RunError
from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.accumulation import Part, Passes
from counterpoint.core.run.training.engine import Engine
from counterpoint.core.run.training.model_requirements import check_model
from counterpoint.integrations.fields import Fields
from counterpoint.integrations.nested import name_of, parts
from counterpoint.integrations.state_file import load_state, save_state
from counterpoint.integrations.transformers.batches import (
    batches_in,
    counted,
    describe_batches,
    logits_of,
    weighed_loss,
)
from counterpoint.integrations.transformers.compat import PrivateTrainer
from counterpoint.integrations.transformers.limits import changes_inputs, check_length, check_limits
from counterpoint.integrations.transformers.spans import Spans
from counterpoint.integrations.transformers.weights import checkpoint_of, complete_weights

__all__ = ["IMAGES_AND_LABELS", "CounterpointTrainer"]

IMAGES_AND_LABELS = Fields(("pixel_values",), "labels")
"""The fields of a batch for image classification."""


class CounterpointTrainer(PrivateTrainer):
    """Hugging Face's ``Trainer``, with a plan.

    ``model``, ``args`` and ``options`` are those of ``Trainer``. A batch of the loader is a device batch; those of one
    optimizer step are open together. The targets, which ``fields`` names, never reach the model; the loss is the
    plan's on the model's logits, in evaluation too, there on unedited batches and with the evaluation weights.
    ``engine`` is the engine.

    Raises ``CompositionError`` with everything that this loop cannot do with the plan, and ``RunError`` for a second
    run. Raises ``CheckpointError`` for a checkpoint of another plan or of other versions, which ``allow_changes``
    accepts, and for one whose names are not the model's. Raises ``NonFiniteLossError`` if the loss becomes NaN or
    infinite.

    >>> import torch, counterpoint as cp
    >>> from tempfile import TemporaryDirectory
    >>> from transformers import TrainingArguments, ViTConfig, ViTForImageClassification
    >>> plan = cp.compose(["mixup", "ema"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=2)
    >>> small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    >>> model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **small))
    >>> data = [{"pixel_values": torch.rand(3, 8, 8), "labels": number % 2} for number in range(8)]
    >>> with TemporaryDirectory() as folder:  # doctest: +ELLIPSIS
    ...     args = TrainingArguments(folder, max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True)
    ...     trainer = CounterpointTrainer(model, args, plan=plan, train_dataset=data)
    ...     trained = trainer.train()
    {...}
    >>> trainer.engine.batches
    2
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        plan: Plan,
        fields: Fields = IMAGES_AND_LABELS,
        allow_changes: bool = False,
        **options: Any,
    ) -> None:
        own_loss = type(self).compute_loss is not CounterpointTrainer.compute_loss
        check_limits(plan, fields, model, args, {**options, "compute_loss": own_loss or None})
        check_model(plan, model)
        first = [_RestoreCallback(self), *(options.pop("callbacks", None) or ())]
        super().__init__(model, args, callbacks=first, **options)
        self.model_accepts_loss_kwargs = False  # nothing is divided by the number of items: the plan's loss does that
        self.fields, self._allow_changes = fields, allow_changes
        self.engine = Engine(
            plan, model=cast(nn.Module, self.model), rank=args.process_index, predict=self._outputs_for
        )
        self._spans = Spans()
        self._parts: list[Any] = []  # the batches of a step, edited
        self._waiting = 0  # batches of a step that training_step has not been given yet
        self._evaluated: list[Tensor] = []
        self._resumed: str | None = None  # the checkpoint that the run goes on from
        self.add_callback(_SpanCallback(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *given: Any, **named: Any) -> Any:
        """Train as ``Trainer.train`` does, once."""
        self._parts, self._waiting = [], 0  # a run that was interrupted may have left some
        self._resumed = checkpoint_of(resume_from_checkpoint, self.args)
        with self._spans.unwound():
            return super().train(resume_from_checkpoint, *given, **named)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Take the batches of an optimizer step, each of them a device batch, and edit them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._waiting:
            raise RunError("the Trainer took the batches of a step before the last step was done")
        if batches:
            self._waiting = len(batches)
            self._parts = []
            for batch in batches:
                edited = self.fields.edited(self.engine, self.batch_on_device(batch))
                self._parts.append(self._spans.begin(edited))
        return batches, None

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """At the last batch of a step, run the passes over all; return their loss, and 0 for the batches before."""
        self._waiting -= 1
        if self._waiting:
            return torch.zeros((), device=self.args.device)
        if not self.accelerator.sync_gradients:
            raise RunError("the Trainer makes no step after the batches that it took for one")
        loss = self._spans.begin(self.engine.update(self._passes(model)))
        if not torch.isfinite(loss):
            draws = describe_batches(self.engine, len(self._parts))
            raise NonFiniteLossError(
                f"step {self.engine.batches}: the loss is {loss.item()}; draws of this step: {draws}. A lower "
                f"learning_rate may help; checkpoints, if there are any, are in {self.args.output_dir}"
            )
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the plan's loss of an unedited batch, for evaluation; training computes its own."""
        plan = self.engine.plan
        prepared, targets = plan.prepare(*self.fields.read(inputs))
        outputs = self._run(model, self.fields.write(inputs, prepared, targets))
        logits = logits_of(outputs)
        loss = plan.loss(logits, targets)
        state, rank = self.accelerator.gradient_state, self.args.process_index
        self._evaluated.append(weighed_loss(plan, logits, targets, counted(len(targets), state, rank)))
        # Where no loss is in the outputs, the Trainer takes the first of a tuple for it.
        shown = {"logits": outputs} if isinstance(outputs, Tensor) else outputs
        shown = (loss, *shown) if isinstance(shown, tuple) else shown
        return (loss, shown) if return_outputs else loss

    def prediction_step(self, model: nn.Module, inputs: Any, *given: Any, **named: Any) -> Any:
        """Evaluate a batch; raises ``DataError`` for one without targets where the plan changes the inputs' kind."""
        if inputs.get(self.fields.targets) is None and changes_inputs(self.engine.plan):
            raise DataError(
                f"a batch without {self.fields.targets!r} cannot be brought to the kind of inputs that the model "
                "takes: give it targets, or change the kind in the data set and not in the plan"
            )
        return super().prediction_step(model, inputs, *given, **named)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Evaluate or predict with the evaluation weights; the loss is the mean over all that counts in it."""
        self._evaluated = []
        with self.engine.evaluation():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if self._evaluated:
            total, weight = self.accelerator.reduce(torch.stack(self._evaluated).sum(0), "sum")
            output = output._replace(
                metrics={**(output.metrics or {}), f"{metric_key_prefix}_loss": (total / weight).item()}
            )
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the evaluation weights; in a checkpoint, those in training and the state of the methods."""
        if not self.is_checkpoint(output_dir, _internal_call):
            with self.engine.evaluation():
                super().save_model(output_dir, _internal_call)
            return
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            save_state(self.engine, Path(str(output_dir)))

    def _restore(self, checkpoint: Path) -> None:
        """Restore the methods' state, and the weights that the Trainer has not loaded."""
        complete_weights(self.engine.model, checkpoint)
        load_state(self.engine, checkpoint, allow_changes=self._allow_changes)

    def _begin_training(self, state: TrainerState, loader: Any) -> None:
        """Check where the run stands, and begin it."""
        parts = self.args.gradient_accumulation_steps
        epoch = len(loader) if has_length(loader) else None
        done = batches_in(state.global_step, epoch, parts)
        if self.engine.batches != done:
            raise RunError(
                f"this Trainer has trained {self.engine.batches} batches, and would go on from {done}: "
                "make a new one, or resume from its last checkpoint"
            )
        check_length(self.engine.plan, total=batches_in(state.max_steps, epoch, parts), epoch=epoch)
        self.engine.optimizer = self.optimizer
        self._spans.begin(self.engine.fit())

    def _passes(self, model: nn.Module) -> Passes:
        """Return the passes over the batches of the step."""
        model.train()
        accelerator = self.accelerator
        return Passes(
            self.engine,
            [
                Part(partial(self._logits, model, batch), self.fields.read(batch)[1], number)
                for number, batch in enumerate(self._parts)
            ],
            backward=accelerator.backward,
            unsynced=partial(accelerator.no_sync, model),
            processes=accelerator.num_processes,
            add=lambda count: cast(Tensor, accelerator.reduce(count, "sum")),
        )

    def _logits(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        with self.compute_loss_context_manager():
            return logits_of(self._run(model, batch))

    def _run(self, model: nn.Module, batch: Mapping[str, Any]) -> Any:
        """Run the model on a batch, which keeps its targets to itself."""
        return model(**{name: value for name, value in batch.items() if name != self.fields.targets})

    def _outputs_for(self, *inputs: Tensor) -> Tensor:
        """Run the model alone on its inputs, for methods that need its outputs."""
        places = [name_of(parts(path)) for path in self.fields.inputs]
        return logits_of(cast(nn.Module, self.model)(**dict(zip(places, inputs, strict=True))))


class _RestoreCallback(TrainerCallback):
    """Restores what the Trainer has not loaded of a checkpoint, before other callbacks see the model."""

    def __init__(self, trainer: CounterpointTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *given: Any, **known: Any) -> None:
        if self._trainer._resumed is not None:
            self._trainer._restore(Path(self._trainer._resumed))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, *given: Any, **known: Any) -> None:
        # The best checkpoint was judged by its evaluation weights, which are in the methods' state.
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._trainer._restore(Path(state.best_model_checkpoint))


class _SpanCallback(TrainerCallback):
    """Begins and ends the spans at which the Trainer calls nothing else."""

    def __init__(self, trainer: CounterpointTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **known: Any
    ) -> None:
        self._trainer._begin_training(state, known["train_dataloader"])

    def on_epoch_begin(self, *given: Any, **known: Any) -> None:
        self._trainer._spans.begin(self._trainer.engine.epoch())

    def on_optimizer_step(self, *given: Any, **known: Any) -> None:
        self._trainer._spans.end(1 + len(self._trainer._parts))  # the update and the batches
        self._trainer._parts = []

    def on_epoch_end(self, *given: Any, **known: Any) -> None:
        self._trainer._spans.end()

    def on_train_end(self, *given: Any, **known: Any) -> None:
        self._trainer._spans.end()
