"""Compare what a user states both to the plan and to the loop or the model: a difference is a fault."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn
from torch.optim.swa_utils import AveragedModel

from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import EVALUATION_WEIGHTS
from counterpoint.core.faults import Fault
from counterpoint.core.run.plan import Plan

__all__ = ["averages", "batch_size", "classes", "labels", "microbatches", "seed"]


def classes(plan: Plan, stated: object, where: str) -> Iterator[Fault]:
    """Find a number of classes that a model states, and the plan another."""
    own = plan.facts.num_classes
    if own is not None and isinstance(stated, int) and not isinstance(stated, bool) and stated != own:
        yield Fault(
            "loop-limit",
            f"the plan has num_classes={own}, and {where} is {stated}",
            f"write the number of classes of the data in both: compose(..., num_classes={stated}), or {where} = {own}",
            event=Event.LOSS,
        )


def labels(plan: Plan, model: nn.Module) -> Iterator[Fault]:
    """Find a number of labels in the config of a Hugging Face model that is not the plan's number of classes.

    2 is the default of every config, and states nothing.
    """
    stated = getattr(getattr(model, "config", None), "num_labels", None)
    if stated != 2:
        yield from classes(plan, stated, "model.config.num_labels")


def averages(plan: Plan, model: nn.Module, others: Sequence[str] = ()) -> Iterator[Fault]:
    """Find an average of weights beside the plan's: in the model, or among ``others``, by what the loop calls them."""
    claiming = [member for member in plan.members if any(c.slot == EVALUATION_WEIGHTS.slot for c in member.claims)]
    inside = [f"the module {name!r}" for name, module in model.named_modules() if isinstance(module, AveragedModel)]
    if claiming and (others or inside):
        names = ", ".join(member.identity for member in claiming)
        second = ", ".join([*others, *inside])
        yield Fault(
            "loop-limit",
            f"{names} averages the weights for evaluation, and so does {second}",
            f"keep one average: leave {names} or {second} out",
            tuple(member.identity for member in claiming),
            Event.EVALUATION,
        )


def batch_size(plan: Plan, found: object, where: str) -> Iterator[Fault]:
    """Find a batch size of the loop that is not the one that the plan was composed with."""
    own = plan.facts.batch_size
    if own is not None and isinstance(found, int) and found != own:
        yield Fault(
            "loop-limit",
            f"the plan was composed for device batches of {own}, and {where} gives batches of {found}",
            f"write compose(..., batch_size={found})",
            event=Event.BATCH,
        )


def microbatches(plan: Plan, parts: int, where: str) -> Iterator[Fault]:
    """Find a number of microbatches that is not the loop's; the plan's default of 1 states none."""
    own = plan.facts.microbatches
    if own not in (1, parts):
        yield Fault(
            "loop-limit",
            f"the plan was composed with microbatches={own}, and {where} is {parts}",
            f"leave microbatches out of compose, or state {parts} in both",
            event=Event.STEP,
        )


def seed(plan: Plan, stated: int | None, where: str) -> Iterator[Fault]:
    """Find a seed of the loop that is not the plan's; ``None`` and the plan's default of 0 state none."""
    own = plan.facts.seed
    if stated is not None and own not in (0, stated):
        yield Fault(
            "loop-limit",
            f"the plan draws with seed={own}, and {where} is {stated}",
            f"state one seed: compose(..., seed={stated}), or the plan's {own} there",
            event=Event.FIT,
        )
