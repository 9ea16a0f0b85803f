"""From a run's config and its data to the checked plan."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn

from counterpoint.algorithms.normalize import Normalize
from counterpoint.composition import compose
from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.durations import Duration
from counterpoint.core.declare.kinds import BYTES, INDEX, NORMALIZED, Field
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.errors import CompositionError, ConfigError
from counterpoint.core.remedies import Write
from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.model_requirements import check_model, misfits
from counterpoint.losses import Loss, resolve_loss
from counterpoint.trainer.config.components import build_component
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.validation_errors import setting_error
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.data.sampler import Epochs

__all__ = ["additions", "is_due", "plan_run", "total_batches", "trains_on_dense"]


def plan_run(
    config: RunConfig,
    spec: DataSpec,
    sampler: Epochs,
    *,
    model: nn.Module,
    outputs: Tensor,
    device: str = "cpu",
    model_inputs: Collection[str] | None = None,
) -> Plan:
    """Compose the methods of a config, and its ``additions``, for its data and its model, in the terms of a config.

    ``sampler`` tells how many batches an epoch has, and how many examples a batch. ``outputs`` are what the model gave
    for some inputs. The loss computes on ``device``.
    ``model_inputs`` are the kinds of inputs that the model takes, by default any but raw bytes.
    Raises ``ConfigError`` if the config's task is not the data's, and ``CompositionError`` if the methods do not fit.
    """
    if config.task != spec.task:
        raise setting_error(
            f"task: {config.task!r} is not that of the data; write `task: {spec.task}`, or use other data",
            (Write(("task",), spec.task),),
        )
    loss = build_component("loss", config.loss)
    try:
        plan = compose(
            [*additions(config, spec, model_inputs), *config.algorithms],
            loss=loss.to(device) if isinstance(loss, nn.Module) else loss,
            task=spec.task,
            num_classes=spec.num_classes,
            inputs=spec.inputs,
            batch_size=sampler.batch_size,
            steps_per_epoch=sampler.batches,
            max_duration=Duration(total_batches(config, sampler), "ba"),
            seed=config.seed,
            strict_order=config.strict_order,
            compile=config.compile,
            microbatches=config.accumulate,
            model_inputs=model_inputs,
            terms=Terms.YAML,
        )
    except CompositionError as error:
        others = misfits(config.algorithms, _described(loss), model, outputs)
        raise CompositionError([*error.faults, *others]) from None
    check_model(plan, model, outputs=outputs)
    return plan


def additions(config: RunConfig, spec: DataSpec, model_inputs: Collection[str] | None = None) -> list[Algorithm[Any]]:
    """Return what the trainer adds to the methods of a config: bytes are normalised as the data says.

    Only for a model that takes no bytes, and where no listed method makes other inputs of them. Arguments as of
    ``plan_run``.
    """
    fits = model_inputs is None or (BYTES.name not in model_inputs and NORMALIZED.name in model_inputs)
    if not (spec.inputs == BYTES.name and spec.mean and fits) or any(map(_makes_inputs, config.algorithms)):
        return []
    return [Normalize(mean=spec.mean, std=spec.std)]


def _makes_inputs(algorithm: Algorithm[Any]) -> bool:
    """Whether an algorithm, or a branch of it, makes inputs of another kind."""
    edits = [effect.edits.get(Field.INPUTS) for effect in algorithm.declared().transforms]
    return any(edit is not None and edit.gives is not None for edit in edits) or any(
        _makes_inputs(branch) for branch, _ in algorithm.alternatives()
    )


def _described(loss: Loss) -> LossSpec | None:
    """Describe a loss, as far as it is one."""
    try:
        return resolve_loss(loss)
    except ConfigError:  # a fault of the composition
        return None


def total_batches(config: RunConfig, sampler: Epochs) -> int:
    """Return the length of a run in device batches; raises ``ConfigError`` if it is less than one."""
    total = config.max_duration.batches(steps_per_epoch=sampler.batches, total=None)
    if not total:
        raise setting_error(
            f"max_duration: {str(config.max_duration)!r} is less than one batch, as an epoch has {sampler.batches}; "
            "lengthen it, such as `max_duration: 1ep`, or lower data.batch_size",
            (Write(("max_duration",), "1ep"),),
        )
    return total


def trains_on_dense(plan: Plan) -> bool:
    """Whether the loss gets rows of classes in training where the data may hold class indices."""
    return plan.facts.task.targets == INDEX and bool(plan.steps) and plan.steps[-1].after[Field.TARGETS] != INDEX


def is_due(every: Duration, step: int, *, steps_per_epoch: int, total: int) -> bool:
    """Whether something that happens once in each ``every`` happens after ``step`` device batches.

    It happens at the end of the batch in which each multiple of ``every`` is reached, and at the end of the run.

    >>> [step for step in range(1, 12) if is_due(Duration.parse("0.5ep"), step, steps_per_epoch=5, total=11)]
    [3, 5, 8, 10, 11]
    """
    scale = {"ba": 1, "ep": steps_per_epoch, "dur": total}[every.unit]
    length = round(every.value * scale, 6)  # so that 0.7 of 10 batches is 7 and not a little more
    return step == total or int(step / length) > int((step - 1) / length)
