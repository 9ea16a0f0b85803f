"""Find what depends on the split of a global batch, over processes and into microbatches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from counterpoint.core.compat import BatchNorm, Dropout
from counterpoint.core.declare.kinds import Axis
from counterpoint.core.plan.member import Member
from counterpoint.core.run.plan import Plan

__all__ = ["Split", "microbatch_notes", "split_changes"]


@dataclass(frozen=True)
class Split:
    """How many processes train, each on device batches of how many examples.

    >>> print(Split(2, 64))
    2 x 64 = 128
    """

    processes: int
    batch_size: int

    @property
    def total(self) -> int:
        """The examples in a global batch."""
        return self.processes * self.batch_size

    def __str__(self) -> str:
        """Show the global batch as a product."""
        return f"{self.processes} x {self.batch_size} = {self.total}"


def split_changes(before: Split, now: Split, plan: Plan, model: nn.Module) -> list[str]:
    """Return why training would go on otherwise with another number of processes; nothing if it would not.

    A call of a function such as ``torch.nn.functional.dropout`` inside a model is not found.
    """
    if before.processes == now.processes:
        return []
    found = [] if before.total == now.total else [f"the global batch was {before} examples, and is {now}"]
    names = sorted(member.identity for member in plan.members if _is_split(member))
    found += [f"{', '.join(names)} would get other draws, or act among other samples"] if names else []
    return [*found, *(f"{layers} would compute on other batches" for layers in _layers(model))]


def microbatch_notes(plan: Plan, model: nn.Module) -> list[str]:
    """Return what makes a step in microbatches differ from one on the whole device batch."""
    parts = plan.facts.microbatches
    if parts == 1:
        return []
    return [
        f"accumulate: {layers} of the model sees each of {parts} microbatches separately: a step is not that of "
        "the whole device batch"
        for layers in _layers(model)
    ]


def _is_split(member: Member) -> bool:
    """Whether what a member does to a sample may depend on which process has it."""
    edits = [edit for leaf in member.leaves for effect in leaf.declaration.transforms for edit in effect.edits.values()]
    mixes = any(Axis.SAMPLE in edit.acts for edit in edits)
    varies = any(Axis.SAMPLE in edit.varies for edit in edits)
    whole = any(hook.whole_batch for leaf in member.leaves for hook in leaf.declaration.hooks)
    return mixes or whole or (member.random and (varies or not member.rank_free))


def _layers(model: nn.Module) -> Iterator[str]:
    """Name the layers that compute or draw across a batch, and how many there are."""
    modules = list(model.modules())
    norms = [module for module in modules if isinstance(module, BatchNorm)]
    drops = [module for module in modules if isinstance(module, Dropout) and module.p > 0]
    for name, found in (("batch norm", norms), ("dropout", drops)):
        if found:
            yield f"{name} ({len(found)} {'layer' if len(found) == 1 else 'layers'})"
