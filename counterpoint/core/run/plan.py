"""The public plan: the result of a check, and the runner of its steps."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from counterpoint.core.arguments import MOST, flag, whole_number
from counterpoint.core.declare.batch import BatchSpec, Inputs, checked_spec
from counterpoint.core.declare.loss import check_shapes, check_values
from counterpoint.core.errors import CounterpointError, EngineRequiredError, RepeatedStepWarning
from counterpoint.core.plan.data import PlanData
from counterpoint.core.plan.serialization import fingerprint, to_data

if TYPE_CHECKING:  # composing loads nothing that only a run needs
    from counterpoint.core.run.batch.runner import Runner

__all__ = ["Plan", "process_rank"]

_LOSS = "plan.loss"
"""The name under which checks of the loss are counted; no algorithm has a dot in its name."""


_WORD = 512
"""Steps in one integer: a long run takes a few bits a step."""


def process_rank() -> int:
    """Return the rank of this process as torch.distributed knows it, 0 if there is only one."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


class _Calls:
    """The steps for which a plan was called in this process; a copy has been called for none."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], int] = {}
        self._warned = False

    def __reduce__(self) -> tuple[type[_Calls], tuple[()]]:
        return _Calls, ()

    def note(self, step: int, rank: int) -> None:
        """Note that the plan is called for a step; warn the first time that it was called for it before."""
        if self._warned:
            return
        word, bit = (rank, step // _WORD), 1 << step % _WORD
        seen = self._seen.get(word, 0)
        self._seen[word] = seen | bit
        if seen & bit:
            self._warned = True
            self._seen.clear()
            warnings.warn(
                f"step {step} was edited before, and the same step gets the same draws: count device batches over all "
                "epochs, as in plan(x, y, step=step); step += 1. To edit a step again on purpose, write "
                "plan(x, y, step=step, repeat=True)",
                RepeatedStepWarning,
                stacklevel=3,
            )


@dataclass(frozen=True, eq=False, repr=False)
class Plan(PlanData):
    """A checked order of steps; ``compose`` creates it.

    ``plan(inputs, targets, step=…)`` edits a batch. ``plan.loss(outputs, targets)`` is the loss, exact on the edited
    targets. ``plan.order`` names the steps; ``print(plan)`` explains them, with the kinds between them and the reasons
    for the order. ``plan.fingerprint`` is equal for plans that do the same.

    >>> import torch, counterpoint as cp
    >>> plan = cp.compose(["mixup"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=3, seed=17)
    >>> plan.order
    ('dense_targets', 'mixup')
    >>> x, y = plan(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), step=0)
    >>> y.shape, y.dtype
    (torch.Size([4, 3]), torch.float32)
    """

    backend: str | None = None
    """The backend of ``torch.compile`` for the batch steps, ``None`` where they run one by one."""

    @classmethod
    def of(cls, data: PlanData, *, backend: str | None = None) -> Plan:
        """Return the plan that runs the result of a check."""
        return cls(**{part.name: getattr(data, part.name) for part in fields(data)}, backend=backend)

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

    @cached_property
    def runner(self) -> Runner:
        """What runs the batch steps, and keeps what it has compiled and checked."""
        from counterpoint.core.run.batch.runner import Runner

        return Runner(self, self.backend)

    @cached_property
    def _calls(self) -> _Calls:
        return _Calls()

    @cached_property
    def _varies(self) -> bool:
        """Whether a batch step does something else at another step."""
        return any(step.work.random or not step.work.schedule.unconditional for step in self.steps)

    @cached_property
    def _beyond_batches(self) -> tuple[str, ...]:
        """The names of the methods that need the loop or the model."""
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

        A plan that is called twice for a step of a rank warns once with a ``RepeatedStepWarning``: a loop that forgets
        to count gets the same draws for each batch. Pass ``repeat=True`` to edit a step again on purpose.
        """
        if self._beyond_batches:
            raise EngineRequiredError(
                f"this plan does more than edit batches ({', '.join(self._beyond_batches)}), which a call would drop: "
                "use counterpoint.Engine(plan, model=model, optimizer=optimizer), or leave them out of the list"
            )
        number = step if type(step) is int and 0 <= step < MOST else whole_number("step", step)
        own = process_rank() if rank is None else whole_number("rank", rank)
        batch, _ = self.runner.edit(inputs, targets, number, rank=own, donate=donate)
        if not (repeat is not False and flag("repeat", repeat)) and self._varies:
            self._calls.note(number, own)
        return batch.inputs if isinstance(inputs, Tensor) else batch.all_inputs, batch.targets

    @overload
    def prepare(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]: ...

    @overload
    def prepare(self, inputs: tuple[Tensor, ...], targets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]: ...

    def prepare(self, inputs: Inputs, targets: Tensor) -> tuple[Inputs, Tensor]:
        """Return a batch for evaluation, in the kinds that the model and the loss accept.

        Only the steps that change the kind of a field run, such as a normalisation, which the model needs in evaluation
        as in training. ``inputs`` may be a tuple, as in a call. Raises ``DataError`` for a batch that is not what was
        stated.
        """
        batch = self.runner.prepare(inputs, targets)
        return batch.inputs if isinstance(inputs, Tensor) else batch.all_inputs, batch.targets

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a model's outputs at targets of the kind that the plan gives.

        Shapes of outputs and targets, and class indices on the CPU, are compared with each other and with the number of
        classes. In the first calls the values of the outputs are checked too, for example logits for a loss that
        accepts log-probabilities. Raises ``DataError`` if something does not fit, and ``CounterpointError`` if the plan
        was composed without a loss.
        """
        if self.loss_spec is None:
            raise CounterpointError("this plan was composed without a loss: give compose a loss=")
        if not torch.compiler.is_compiling():
            classes = self.facts.num_classes if self.facts.task.classes else None
            check_shapes(self.loss_spec, outputs, targets, classes)
            if self.runner.progress.check(self.contract, (_LOSS,)):
                check_values(self.loss_spec, outputs)
        return self.loss_spec.function(outputs, targets)

    def explain(self, *, pairs: bool = False) -> str:
        """Return the plan in words, at most 80 columns wide; with ``pairs``, the rule and reason for every pair."""
        from counterpoint.core.plan.explanation import explain

        return explain(self, pairs=flag("pairs", pairs))

    def draws(self, step: int, batch: BatchSpec, *, rank: int = 0) -> dict[str, Any]:
        """Return what every method that acts on a device batch draws for it, by its name in the plan.

        ``step`` counts device batches; ``batch`` says how large it is. Of a choice the chosen branch is named. Raises
        ``ArgumentError`` for arguments of a wrong type or value.
        """
        spec = checked_spec(batch, self.facts.inputs)
        return self.runner.drawn(whole_number("step", step), spec, whole_number("rank", rank))

    def to_data(self) -> dict[str, Any]:
        """Return everything that decides what the plan does, as plain data."""
        return to_data(self)

    def to_json(self) -> str:
        """Return the plan as JSON, with its fingerprint and the pairs that the list decided or did not decide."""
        pairs = [pair._asdict() for pair in self.pairs]
        return json.dumps({**self.to_data(), "pairs": pairs, "fingerprint": self.fingerprint}, indent=2)

    @property
    def fingerprint(self) -> str:
        """A digest of everything that decides what the plan does; lists that give the same plan share it."""
        return fingerprint(self)
