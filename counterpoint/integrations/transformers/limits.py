"""What Hugging Face's loop cannot do with a plan, found before it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

from torch import nn
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from counterpoint.core.declare.effects import Phase
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import Field
from counterpoint.core.faults import Fault
from counterpoint.core.plan.steps import HookStep
from counterpoint.core.run.plan import Plan
from counterpoint.integrations import consistency, launcher
from counterpoint.integrations.criterion import compare_losses, loss_modules
from counterpoint.integrations.fields import Fields
from counterpoint.integrations.limits import (
    changes_kind,
    compares_losses,
    fault_of_steps,
    raise_faults,
    repeats_passes,
    uses_gradients,
)
from counterpoint.integrations.nested import parts

__all__ = ["changes_inputs", "check_length", "check_limits"]

_OFF = {
    "label_smoothing_factor": "smooths the targets of a loss that the plan's stands for; list label_smoothing instead",
    "auto_find_batch_size": "starts the loop again in the middle of a run, whose batches and draws are counted",
    "fp16_full_eval": "turns the trained weights to half precision for good when it evaluates; bf16=True does not",
    "bf16_full_eval": "turns the trained weights to half precision for good when it evaluates; bf16=True does not",
    "use_liger_kernel": "computes the loss inside the model, and the plan's loss needs its logits",
    "use_legacy_prediction_loop": "evaluates in a loop of its own, where nothing puts in the evaluation weights",
    "torch_empty_cache_steps": "empties the device's cache in a place that the plan's passes do not reach",
    "fsdp": "splits the weights and gradients that methods work on, which has not been made to work",
    "deepspeed": "splits the weights and gradients that methods work on, and makes the optimizer step",
    "parallelism_config": "splits the model or the batch over devices, which has not been made to work",
}
"""Arguments that must stay as they are by default where they are not empty or zero, and why."""

_PROBLEMS = {
    "single_label_classification": "multiclass",
    "multi_label_classification": "multilabel",
    "regression": "regression",
}
"""The task that each ``problem_type`` of a model's config means."""

_DEFAULT_SEED = 42
"""``TrainingArguments.seed`` where it is not stated."""

_OPTIMIZERS = {
    "lomo": "steps while the gradients are still being computed",
    "layerwise": "steps while the gradients are still being computed",
    "schedule_free": "evaluates on weights of its own, beside those of the plan",
}


def check_limits(
    plan: Plan, fields: Fields, model: nn.Module, args: TrainingArguments, options: Mapping[str, Any]
) -> None:
    """Raise ``CompositionError`` with everything that the plan, or any plan, needs and this loop cannot do.

    ``options`` are the further arguments of the Trainer, and under ``compute_loss`` whether it has such a method.
    """
    raise_faults(
        [
            *_arguments(args),
            *_options(plan, options),
            *_stated(plan, model, args),
            *_gradients(plan, args),
            *_columns(fields, model, args, options.get("train_dataset")),
            *_looks(plan, fields),
        ]
    )


def check_length(plan: Plan, *, total: int, epoch: int | None) -> None:
    """Raise ``CompositionError`` where the plan counts on a run of another length.

    ``total`` is the number of batches of the run and ``epoch`` that of an epoch, ``None`` where that is not known.
    """
    clock = plan.facts.clock
    told = [
        ("steps_per_epoch", clock.steps_per_epoch, epoch, epoch),
        ("max_duration", clock.total, total, f"{total}ba"),
    ]
    raise_faults(
        _limit(
            f"the plan counts on {was} batches by {key}, and the Trainer takes {now}",
            f"write compose(..., {key}={right!r})",
        )
        for key, was, now, right in told
        if was is not None and now is not None and was != now
    )


def changes_inputs(plan: Plan) -> bool:
    """Whether a plan gives the model inputs of another kind than the data's, in evaluation too."""
    return bool(changes_kind(plan, Field.INPUTS))


def _arguments(args: TrainingArguments) -> Iterator[Fault]:
    held = vars(args)
    for name, why in _OFF.items():
        if held.get(name):
            yield _limit(f"{name}={held[name]!r} {why}", f"leave {name} out")
    optimizer = OptimizerNames(args.optim).value
    for word, why in _OPTIMIZERS.items():
        if word in optimizer:
            yield _limit(f"optim={optimizer!r} {why}", "choose another optim, such as 'adamw_torch'")
    if args.n_gpu > 1:
        yield _limit(
            f"{args.n_gpu} GPUs in one process work on copies of the model, and methods act on the model itself",
            "start one process for each GPU: torchrun --nproc_per_node N script.py",
        )
    yield from launcher.check_processes(args.world_size, "the Trainer", "set use_cpu=True", "torchrun")


def _stated(plan: Plan, model: nn.Module, args: TrainingArguments) -> Iterator[Fault]:
    """Find what is stated to the plan, and otherwise to the Trainer or the model."""
    config = getattr(model, "config", None)
    if plan.facts.task.name != "regression":
        yield from consistency.labels(plan, model)
    problem = getattr(config, "problem_type", None)
    if problem is not None and _PROBLEMS.get(problem) != plan.facts.task.name:
        yield _limit(
            f"the plan's task is {plan.facts.task.name}, and model.config.problem_type is {problem!r}",
            "state one task: set problem_type=None, or the one that means the plan's task",
            Event.LOSS,
        )
    yield from compare_losses(plan, loss_modules(model))
    yield from consistency.averages(plan, model)
    yield from consistency.microbatches(plan, args.gradient_accumulation_steps, "gradient_accumulation_steps")
    yield from consistency.batch_size(plan, args.train_batch_size, "per_device_train_batch_size")
    yield from consistency.seed(plan, None if args.seed == _DEFAULT_SEED else args.seed, "TrainingArguments.seed")
    yield from launcher.check_precision(_precision(args), "the arguments", "{launched}=True")


def _precision(args: TrainingArguments) -> str:
    return "fp16" if args.fp16 else "bf16" if args.bf16 else "no"


def _options(plan: Plan, options: Mapping[str, Any]) -> Iterator[Fault]:
    if plan.loss_spec is None:
        yield _limit("the plan has no loss, and the model never sees the labels", "give compose a loss=", Event.LOSS)
    for name in ("compute_loss", "compute_loss_func"):
        if options.get(name) is not None:
            yield _limit(f"{name} would stand for the plan's loss", "give the loss to compose", Event.LOSS)
    if options.get("model_init") is not None:
        yield _limit(
            "model_init makes a new model for each run, and a plan is bound to one model and one run",
            "make the model and give model=; for a search, make a Trainer for each trial",
        )
    surgery = _acting(plan, Event.SETUP)
    if surgery and options.get("optimizers", (None, None))[0] is not None:
        yield fault_of_steps(
            surgery,
            "changes the model's modules, and optimizers=... has taken their parameters already",
            "choose the optimizer by optim=... or optimizer_cls_and_kwargs=..., which make it later",
            Event.SETUP,
            code="late-surgery",
        )


def _gradients(plan: Plan, args: TrainingArguments) -> Iterator[Fault]:
    clipping = [h for h in _acting(plan, Event.UPDATE) if Field.GRADIENTS in h.effect.writes]
    if args.max_grad_norm and args.max_grad_norm > 0 and clipping:
        yield fault_of_steps(
            clipping,
            f"edits gradients before each update, and max_grad_norm={args.max_grad_norm} would clip them once more",
            "write max_grad_norm=0",
            Event.UPDATE,
        )
    using, again = uses_gradients(plan), repeats_passes(plan)
    if args.fp16 and (using or again):
        yield fault_of_steps(
            [*using, *again], "uses gradients, which fp16=True scales", "write bf16=True instead", Event.UPDATE
        )


def _looks(plan: Plan, fields: Fields) -> Iterator[Fault]:
    looking = compares_losses(plan)
    nested = [path for path in fields.inputs if len(parts(path)) > 1]
    if looking and nested:
        yield fault_of_steps(
            looking,
            f"runs the model on the inputs by their names, and those at {nested} have none that the model knows",
            "let the collator put them under names of their own",
            Event.BATCH,
        )


def _columns(fields: Fields, model: nn.Module, args: TrainingArguments, data: object) -> Iterator[Fault]:
    accepted = list(signature(model.forward).parameters)
    labels = [name for name in accepted if "label" in name] if args.label_names is None else args.label_names
    target, *nested = parts(fields.targets)
    if nested or not isinstance(target, str):
        yield _limit(
            f"fields: the targets are at {fields.targets!r}, from where they would reach the model",
            "let the collator put them under a key of their own, such as 'labels'",
            Event.BATCH,
        )
    elif target not in labels:
        yield _limit(
            f"the targets are under {target!r}, and the Trainer takes {labels} for labels, so that it would evaluate "
            "without a loss",
            f"write label_names=[{target!r}]",
            Event.EVALUATION,
        )
    first = [parts(path)[0] for path in fields.inputs]
    unnamed = [name for name in first if name not in accepted]
    if args.remove_unused_columns and unnamed:
        yield _dropped(unnamed, fields, model, _columns_of(data))


def _dropped(unnamed: list[Any], fields: Fields, model: nn.Module, columns: frozenset[str]) -> Fault:
    """Say of inputs that the model's ``forward`` does not name whether they have another name, or would be dropped."""
    name = type(model).__name__
    others = [key for key in signature(model.forward).parameters if key in columns and key != fields.targets]
    main = getattr(model, "main_input_name", None)
    known = [main] if main in others else others[:1]
    if known and not columns.intersection(map(str, unnamed)):
        return _limit(
            f"fields: the inputs are at {unnamed}, which neither the samples of train_dataset have, {sorted(columns)}, "
            f"nor {name}.forward names",
            f"name those that are edited: fields=Fields(({known[0]!r},), {fields.targets!r})",
            Event.BATCH,
        )
    return _limit(
        f"remove_unused_columns=True drops {unnamed}, which {name}.forward does not name",
        "write remove_unused_columns=False",
        Event.BATCH,
    )


def _columns_of(data: Any) -> frozenset[str]:
    """Return the names of the fields of a data set's samples, as far as they can be known."""
    names = getattr(data, "column_names", None)
    if names is None and hasattr(data, "__getitem__"):
        first = next(iter(data), None)
        names = first if isinstance(first, Mapping) else None
    return frozenset(map(str, names or ()))


def _acting(plan: Plan, event: Event) -> list[HookStep]:
    """Return the hooks that act before or around a span."""
    return [hook for hook in plan.hooks if hook.effect.event is event and hook.effect.phase is not Phase.AFTER]


def _limit(message: str, fix: str, event: Event = Event.FIT) -> Fault:
    return Fault("loop-limit", message, fix, event=event)
