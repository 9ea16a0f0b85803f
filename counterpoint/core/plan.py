"""The checked, frozen order of steps: what it holds, how it is written down, and how it is called."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from counterpoint.core.arguments import flag, whole_number
from counterpoint.core.batch import Batch, BatchSpec, Inputs, checked_spec
from counterpoint.core.digest import described, digest
from counterpoint.core.effects import Contract
from counterpoint.core.errors import CounterpointError, EngineRequiredError
from counterpoint.core.facts import Facts
from counterpoint.core.kinds import Field, Kind
from counterpoint.core.loss import LossSpec, check_shapes, check_values
from counterpoint.core.member import Member
from counterpoint.core.order import Pair
from counterpoint.core.progress import Progress
from counterpoint.core.steps import BatchStep, HookStep

if TYPE_CHECKING:
    from counterpoint.core.compiled import Compiled

__all__ = ["Plan"]

_LOSS = "plan.loss"
"""The name under which checks of the loss are counted; no algorithm has a dot in its name."""


@dataclass(frozen=True, eq=False)
class Plan:
    """An order of steps that has been proved to fit: made by ``compose``, never by hand.

    ``plan(inputs, targets, step=…)`` edits a batch; ``plan.loss(outputs, targets)`` is the loss, exact on the targets
    that the plan gives; ``plan.order`` names the steps; ``print(plan)`` explains them, with the kinds between
    and what decided the order; ``plan.fingerprint`` is equal for plans that do the same.

    >>> import torch, counterpoint as cp
    >>> plan = cp.compose(["mixup"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=3, seed=17)
    >>> plan.order
    ('dense_targets', 'mixup')
    >>> x, y = plan(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), step=0)
    >>> y.shape, y.dtype
    (torch.Size([4, 3]), torch.float32)
    """

    facts: Facts
    members: tuple[Member, ...]
    steps: tuple[BatchStep, ...]
    hooks: tuple[HookStep, ...]
    pairs: tuple[Pair, ...]
    loss_spec: LossSpec | None = None
    contract: Contract = Contract.FIRST_STEPS
    compiled: Compiled | None = None
    progress: Progress = field(default_factory=Progress, init=False, repr=False)

    def __repr__(self) -> str:
        """Return the plan in one line; ``str`` returns the explanation."""
        stated = [f"order={self.order}", f"task={self.facts.task.name!r}"]
        stated += [f"num_classes={self.facts.num_classes}"] if self.facts.num_classes is not None else []
        stated += [f"inputs={self.facts.inputs.name!r}"]
        stated += [f"loss={self.loss_spec.name!r}"] if self.loss_spec is not None else []
        return f"Plan({', '.join([*stated, f'seed={self.facts.seed}'])})"

    def __str__(self) -> str:
        """Return the explanation."""
        return self.explain()

    @property
    def order(self) -> tuple[str, ...]:
        """The names of the steps in running order, conversions included, hooks last in the order of the loop."""
        return (*(step.name for step in self.steps), *dict.fromkeys(hook.name for hook in self.hooks))

    @property
    def ignore_index(self) -> int:
        """The class index that marks an ignored position: the loss's, -100 without a loss."""
        return -100 if self.loss_spec is None else self.loss_spec.ignore_index

    @cached_property
    def stretches(self) -> tuple[tuple[bool, tuple[BatchStep, ...]], ...]:
        """The steps that edit batches, in stretches that leave a batch its shape; others, and eager ones, stand alone.

        With each stretch, whether it may be compiled into one function.
        """
        found: list[tuple[bool, tuple[BatchStep, ...]]] = []
        for together, group in groupby(self.steps, lambda step: step.compiles):
            steps = tuple(group)
            found += [(True, steps)] if together else [(False, (step,)) for step in steps]
        return tuple(found)

    @cached_property
    def _varies(self) -> bool:
        """Whether a batch step does something else at another step."""
        members = [*(step.work for step in self.steps), *(leaf for step in self.steps for leaf in step.work.leaves)]
        return any(member.random or not member.schedule.unconditional for member in members)

    @cached_property
    def _beyond_batches(self) -> tuple[str, ...]:
        """The names of what needs the loop, or the model."""
        asking = [step.name for step in self.steps if any(effect.sample_losses for effect in step.effects)]
        return tuple(dict.fromkeys([*(hook.name for hook in self.hooks), *asking]))

    @overload
    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        step: int,
        *,
        rank: int | None = None,
        donate: bool = False,
        repeat: bool = False,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(
        self,
        inputs: tuple[Tensor, ...],
        targets: Tensor,
        step: int,
        *,
        rank: int | None = None,
        donate: bool = False,
        repeat: bool = False,
    ) -> tuple[tuple[Tensor, ...], Tensor]: ...

    def __call__(
        self,
        inputs: Inputs,
        targets: Tensor,
        step: int,
        *,
        rank: int | None = None,
        donate: bool = False,
        repeat: bool = False,
    ) -> tuple[Inputs, Tensor]:
        """Edit a device batch.

        ``inputs`` is (N, ...) and ``targets`` as the task says; ``step`` counts device batches from 0. ``rank`` is the
        number of this process (``None``: what torch.distributed says, else 0). ``donate=True`` allows the plan to edit
        ``inputs`` in place; otherwise a tensor of the caller's is never changed. ``inputs`` may also be a tuple of
        tensors of one kind, and of one shape where a method edits positions or channels: all are edited with the same
        draws, and come back as a tuple. Raises ``EngineRequiredError`` if the plan has hooks, ``DataError`` for a batch
        that is not what was stated, and ``ArgumentError`` for other arguments of a wrong type or value.

        A plan that is called twice for a step of a rank says so once, as a ``RepeatedStepWarning``: a loop that forgets
        to count gets the same draws for each batch. ``repeat=True`` is for calls that edit a step again on purpose.
        """
        if self._beyond_batches:
            raise EngineRequiredError(
                f"this plan does more than edit batches ({', '.join(self._beyond_batches)}), which a call would drop: "
                "use counterpoint.Engine(plan, model=model, optimizer=optimizer), or leave them out of the list"
            )
        from counterpoint.core.run import edit, process_rank

        number = whole_number("step", step)
        own = process_rank() if rank is None else whole_number("rank", rank)
        batch, _ = edit(self, inputs, targets, number, rank=own, donate=donate)
        if not flag("repeat", repeat) and self._varies:
            self.progress.call(number, own)
        return _as_given(inputs, batch), batch.targets

    @overload
    def prepare(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]: ...

    @overload
    def prepare(self, inputs: tuple[Tensor, ...], targets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]: ...

    def prepare(self, inputs: Inputs, targets: Tensor) -> tuple[Inputs, Tensor]:
        """Return an unedited batch as the model and the loss take it, for evaluation.

        Only the steps that change the kind of a field run, such as a normalisation, which the model needs in evaluation
        as in training. ``inputs`` may be a tuple, as in a call. Raises ``DataError`` for a batch that is not what was
        stated.
        """
        from counterpoint.core.run import prepare

        batch = prepare(self, inputs, targets)
        return _as_given(inputs, batch), batch.targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a model's outputs at targets of the kind that the plan gives.

        Shapes of outputs and targets, and class indices on the CPU, are compared with each other and with the number of
        classes. In the first calls the values of the outputs are compared with what the loss takes, as logits where it
        takes log-probabilities. Raises ``DataError`` where something does not fit, and ``CounterpointError`` if the
        plan was composed without a loss.
        """
        if self.loss_spec is None:
            raise CounterpointError("this plan was composed without a loss: give compose a loss=")
        if not torch.compiler.is_compiling():
            classes = self.facts.num_classes if self.facts.task.classes else None
            check_shapes(self.loss_spec, outputs, targets, classes)
            if self.progress.check(self.contract, (_LOSS,)):
                check_values(self.loss_spec, outputs)
        return self.loss_spec.function(outputs, targets)

    def explain(self, *, pairs: bool = False) -> str:
        """Return the plan in words, at most 80 columns wide; with ``pairs``, the rule and reason for every pair."""
        from counterpoint.core.explain import explain

        return explain(self, pairs=flag("pairs", pairs))

    def draws(self, step: int, batch: BatchSpec, *, rank: int = 0) -> dict[str, Any]:
        """Return what every method that acts on a device batch draws for it, by its name in the plan.

        ``step`` counts device batches; ``batch`` says how large it is. Of a choice the chosen branch is named. Raises
        ``ArgumentError`` for arguments of a wrong type or value.
        """
        from counterpoint.core.run import draws

        return draws(
            self, whole_number("step", step), checked_spec(batch, self.facts.inputs), whole_number("rank", rank)
        )

    def to_data(self) -> dict[str, Any]:
        """Return everything that decides what the plan does, as plain data."""
        return {
            "version": 2,
            "facts": self.facts.to_data(),
            "loss": None if self.loss_spec is None else _loss_data(self.loss_spec),
            "algorithms": sorted((_member_data(member) for member in self.members), key=lambda data: str(data["id"])),
            "steps": [_step_data(step) for step in self.steps],
            "hooks": [
                {
                    "name": hook.name,
                    "method": hook.effect.method,
                    "event": hook.effect.event,
                    "phase": hook.effect.phase,
                }
                for hook in self.hooks
            ],
        }

    def to_json(self) -> str:
        """Return the plan as JSON, with its fingerprint and the pairs that the list decided or did not decide."""
        pairs = [pair._asdict() for pair in self.pairs]
        return json.dumps({**self.to_data(), "pairs": pairs, "fingerprint": self.fingerprint}, indent=2)

    @property
    def fingerprint(self) -> str:
        """A digest of everything that decides what the plan does; lists that give the same plan share it."""
        return digest(self.to_data())


def _as_given(inputs: Inputs, batch: Batch) -> Inputs:
    return batch.inputs if isinstance(inputs, Tensor) else batch.all_inputs


def _member_data(member: Member) -> dict[str, Any]:
    schedule = member.schedule
    settings = member.algorithm.model_dump(exclude={"after", "before", "id", "start", "end", "every", "p"})
    return {
        "id": member.identity,
        "name": member.algorithm.name,
        "settings": described(settings),
        "schedule": {"start": schedule.start, "end": schedule.end, "every": schedule.every, "p": schedule.p},
        "draws": "shared" if member.rank_free else "by rank",
        "acts": "shared" if member.acts_alike else "by rank",
        "branches": [_member_data(branch) for branch in member.branches],
    }


def _loss_data(loss: LossSpec) -> dict[str, Any]:
    claims = [{"slot": claim.slot.name, "amount": claim.amount} for claim in loss.claims]
    accepts = sorted(kind.name for kind in loss.accepts)
    own = {"function": loss.function, "denominator": loss.denominator, "each": loss.each}
    settings = described(own if loss.settings is None else loss.settings)
    return {
        "name": loss.name,
        "accepts": accepts,
        "claims": claims,
        "ignore_index": loss.ignore_index,
        "settings": settings,
    }


def _step_data(step: BatchStep) -> dict[str, Any]:
    def kinds(side: dict[Field, Kind]) -> dict[str, str]:
        return {part.value: kind.name for part, kind in sorted(side.items())}

    return {"name": step.name, "conversion": step.inserted, "before": kinds(step.before), "after": kinds(step.after)}
