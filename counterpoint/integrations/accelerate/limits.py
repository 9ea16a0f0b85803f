"""What a loop on Accelerate cannot do with a plan, found before it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from accelerate import Accelerator, DistributedType

from counterpoint.core.declare.events import Event
from counterpoint.core.errors import RunError
from counterpoint.core.faults import Fault
from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.engine import Engine
from counterpoint.integrations import consistency, launcher
from counterpoint.integrations.criterion import compare_losses, loss_modules
from counterpoint.integrations.limits import raise_faults, repeats_passes

__all__ = ["check_engine", "check_groups"]

_SPLIT = {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}


def check_engine(engine: Engine, accelerator: Accelerator) -> None:
    """Raise ``RunError`` for processes and settings with which the steps would be wrong.

    Raises ``CompositionError`` for what is stated otherwise to the plan.
    """
    _check_processes(engine, accelerator)
    _check_passes(engine.plan, accelerator)
    raise_faults(_stated(engine, accelerator))


def check_groups(plan: Plan, loader: Iterable[Any], count: int) -> None:
    """Raise ``CompositionError`` where a loader, in groups of ``count``, gives other batches than the plan states."""
    own, sampler = plan.facts.clock.steps_per_epoch, getattr(loader, "batch_sampler", None)
    size = getattr(loader, "batch_size", None) or getattr(sampler, "batch_size", None)
    faults = [
        *consistency.batch_size(plan, size, "the loader"),
        *consistency.microbatches(plan, count, "the number of batches in a step"),
    ]
    found = len(loader) if isinstance(loader, Sized) else own
    if own is not None and found != own:
        faults.append(
            Fault(
                "loop-limit",
                f"the plan was composed with a steps_per_epoch of {own} batches, and the loader gives {found}",
                f"write compose(..., steps_per_epoch={found})",
                event=Event.EPOCH,
            )
        )
    raise_faults(faults)


def _check_processes(engine: Engine, accelerator: Accelerator) -> None:
    on_cpus = "write Accelerator(cpu=True) or set ACCELERATE_USE_CPU=true"
    torchrun = "ACCELERATE_USE_CPU=true torchrun"
    for fault in launcher.check_processes(accelerator.num_processes, "Accelerate", on_cpus, torchrun):
        raise RunError(f"{fault.message}; {fault.fix}")
    if engine.rank != accelerator.process_index:
        raise RunError(
            f"the engine draws as rank {engine.rank}, and this is process {accelerator.process_index}: make it with "
            "Engine(..., rank=accelerator.process_index)"
        )


def _check_passes(plan: Plan, accelerator: Accelerator) -> None:
    if accelerator.gradient_accumulation_steps != 1:
        raise RunError(
            f"Accelerator(gradient_accumulation_steps={accelerator.gradient_accumulation_steps}) divides every loss by "
            "that number, and each batch counts by its share here: leave it at 1, and give a step its batches together"
        )
    if accelerator.distributed_type in _SPLIT:
        raise RunError(
            f"{accelerator.distributed_type.value} splits the model among the processes and steps its own way: use "
            "DistributedDataParallel here, or the engine's spans in a loop of your own"
        )
    again = [hook.name for hook in repeats_passes(plan)]
    if accelerator.scaler is not None and again:
        raise RunError(
            f"fp16 unscales the gradients of a step once, and {', '.join(again)} makes its passes twice: use "
            "Accelerator(mixed_precision='bf16')"
        )


def _stated(engine: Engine, accelerator: Accelerator) -> Iterator[Fault]:
    """Find what is stated to the plan, and otherwise to Accelerate or the model."""
    plan, model = engine.plan, engine.model
    if plan.facts.task.name != "regression":
        yield from consistency.classes(plan, getattr(model, "num_classes", None), "model.num_classes")
        yield from consistency.labels(plan, model)
    yield from compare_losses(plan, loss_modules(model))
    yield from consistency.averages(plan, model)
    loaders = getattr(accelerator, "dataloader_config", None)
    yield from consistency.seed(plan, getattr(loaders, "data_seed", None), "DataLoaderConfiguration.data_seed")
    precision = getattr(accelerator, "mixed_precision", "no")
    yield from launcher.check_precision(precision, "Accelerator(...)", "Accelerator(mixed_precision={launched!r})")
