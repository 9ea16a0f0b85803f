"""A plan in a loop on Hugging Face Accelerate: the optimizer step, and the state of the methods in its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from accelerate import Accelerator
from torch import Tensor, nn

from counterpoint.core.run.training.accumulation import Part, Passes
from counterpoint.core.run.training.engine import Engine
from counterpoint.integrations.accelerate.limits import check_engine, check_groups
from counterpoint.integrations.fields import FIRST_AND_SECOND, Fields
from counterpoint.integrations.state_file import load_state, save_state

__all__ = ["AcceleratedSteps"]

_BatchT = TypeVar("_BatchT")


class AcceleratedSteps(Generic[_BatchT]):
    """Takes optimizer steps by an engine's plan in a loop on Accelerate.

    ``engine`` was made with the bare model, ``model`` is what ``accelerator.prepare`` returned for it, and
    ``engine.optimizer`` is the prepared optimizer. ``forward(batch)`` runs ``model`` on a batch as the loader gives it,
    with inputs and targets edited, and returns the outputs that the plan's loss takes; by default it is
    ``model(*inputs)``. ``fields`` says where a batch holds its inputs and targets.

    From here on ``accelerator.save_state`` writes the state of the methods to ``counterpoint.safetensors`` next to its
    own files, and ``load_state`` restores it. It raises ``CheckpointError`` if the state is incomplete, of another plan
    or of other versions; ``allow_changes`` accepts the last two.

    Raises ``RunError`` if fewer processes are connected than were started, if Accelerate would divide losses a second
    time, if the model is sharded, and if a method repeats the passes of a step in fp16. Raises ``CompositionError`` if
    Accelerate, the launcher or the model states something else than the plan.

    >>> import torch, counterpoint as cp
    >>> from counterpoint.integrations.accelerate import AcceleratedSteps
    >>> plan = cp.compose(["mixup", "ema"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=3)
    >>> accelerator = Accelerator(cpu=True)
    >>> bare = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> engine = cp.Engine(plan, model=bare, rank=accelerator.process_index)
    >>> model, engine.optimizer = accelerator.prepare(bare, torch.optim.SGD(bare.parameters(), lr=0.1))
    >>> steps = AcceleratedSteps(engine, accelerator, model)
    >>> loader = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 3) for _ in range(5)]
    >>> [len(batches) for batches in steps.groups(loader, 2) if steps.step(batches) > 0]
    [2, 2, 1]
    """

    def __init__(
        self,
        engine: Engine,
        accelerator: Accelerator,
        model: nn.Module,
        *,
        forward: Callable[[_BatchT], Tensor] | None = None,
        fields: Fields = FIRST_AND_SECOND,
        allow_changes: bool = False,
    ) -> None:
        check_engine(engine, accelerator)
        self.engine, self.accelerator, self.model, self.fields = engine, accelerator, model, fields
        self._allow_changes = allow_changes
        self._forward = forward or self._on_inputs
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def groups(self, loader: Iterable[_BatchT], count: int) -> Iterator[list[_BatchT]]:
        """Yield the batches of a loader in lists of ``count``, one list a step; the last may be shorter.

        Raises ``CompositionError`` where the loader or ``count`` is not what the plan states.
        """
        check_groups(self.engine.plan, loader, count)
        group: list[_BatchT] = []
        for batch in loader:
            group.append(batch)
            if len(group) == count:
                yield group
                group = []
        if group:
            yield group

    def step(self, batches: Sequence[_BatchT], *, donate: bool = False) -> Tensor:
        """Take one optimizer step over some batches of the loader, each of them a device batch, and return the loss.

        Every batch is edited separately, and weighted by its share of the denominator of the loss's mean over all
        processes. The mean of the returned losses over the processes is the loss of the global batch. ``donate`` as in
        ``Engine.batch``.
        """
        with ExitStack() as opened:
            edited = [opened.enter_context(self.fields.edited(self.engine, batch, donate=donate)) for batch in batches]
            parts = [
                Part(partial(self._forward, batch), self.fields.read(batch)[1], number)
                for number, batch in enumerate(edited)
            ]
            passes = Passes(
                self.engine,
                parts,
                backward=self.accelerator.backward,
                unsynced=partial(self.accelerator.no_sync, self.model),
                processes=self.accelerator.num_processes,
                add=lambda count: self.accelerator.reduce(count, "sum"),
            )
            return self.engine.step(partial(self._unscaled, passes))

    def _unscaled(self, passes: Passes) -> Tensor:
        """Make the passes, and undo fp16's scaling of the gradients before a method sees them."""
        loss = passes()
        self.accelerator.unscale_gradients(self.engine.optimizer)
        return loss

    def _on_inputs(self, batch: _BatchT) -> Tensor:
        outputs: Tensor = self.model(*self.fields.read(batch)[0])
        return outputs

    def _save(self, models: object, weights: object, folder: str) -> None:
        each_node = self.accelerator.project_configuration.save_on_each_node
        if self.accelerator.is_local_main_process if each_node else self.accelerator.is_main_process:
            save_state(self.engine, Path(folder))

    def _load(self, models: object, folder: str) -> None:
        load_state(self.engine, Path(folder), allow_changes=self._allow_changes)
