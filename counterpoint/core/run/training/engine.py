"""Run a plan over the events of a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from counterpoint.core.arguments import function, instance, whole_number, written
from counterpoint.core.declare.batch import Batch, Inputs
from counterpoint.core.declare.context import Opened, Training
from counterpoint.core.declare.events import Event
from counterpoint.core.errors import ArgumentError, CounterpointError, RunError
from counterpoint.core.run.dice import Dice
from counterpoint.core.run.plan import Plan, process_rank
from counterpoint.core.run.training.event_checks import Fired
from counterpoint.core.run.training.hooks import Handlers
from counterpoint.core.run.training.model_requirements import check_model
from counterpoint.core.run.training.open_batches import OpenedBatches
from counterpoint.core.run.training.origin import check_origin, pack_origin
from counterpoint.core.run.training.spans import Span, SpanContext
from counterpoint.core.run.training.state import Remembered, load_states, pack_states
from counterpoint.core.run.training.update import Update
from counterpoint.core.tensors.sharding import reshard

__all__ = ["Engine"]

_NOTHING = nullcontext()
"""The span of an event without hooks."""


class Engine:
    """Runs a plan in a training loop; the docstring of ``Event`` shows that loop.

    Creating the engine runs the plan's surgery (``SETUP`` hooks) on ``model``; the state of each algorithm is created
    at the first span, and the model may be sharded before that. ``optimizer`` may be set later, and must be set later
    if there is surgery. ``rank`` is the number of this process (``None``: what torch.distributed says, else 0);
    ``update`` changes the parameters in a step (default ``optimizer.step``); ``predict`` returns the outputs for
    methods that run the model (default ``model(*inputs)``). With a ``scaler`` the closure calls
    ``scaler.scale(loss).backward()``: the engine then unscales the gradients before methods use them, and steps through
    the scaler. Raises ``CompositionError`` if the methods cannot work on the model or the optimizer.

    >>> import torch, counterpoint as cp
    >>> plan = cp.compose(["mixup", "ema"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=3)
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    >>> with engine.batch(torch.rand(8, 1, 2, 2), torch.arange(8) % 3) as batch:
    ...     def closure():
    ...         loss = plan.loss(model(batch.inputs), batch.targets)
    ...         loss.backward()
    ...         return loss.detach()
    ...     loss = engine.step(closure)
    >>> engine.batches
    1
    """

    def __init__(
        self,
        plan: Plan,
        *,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        rank: int | None = None,
        update: Callable[[], object] | None = None,
        predict: Callable[..., Tensor] | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        instance("plan", plan, Plan, "compose([...])")
        instance("model", model, nn.Module, "nn.Linear(4, 3)")
        if optimizer is not None and not callable(getattr(optimizer, "step", None)):
            raise ArgumentError(f"optimizer is {written(optimizer)}; it is a torch.optim.Optimizer, or None")
        function("update", update)
        function("predict", predict)
        if scaler is not None:
            instance("scaler", scaler, GradScaler, "torch.amp.GradScaler()")
        check_model(plan, model, has_optimizer=optimizer is not None)
        self.plan = plan
        self.rank = process_rank() if rank is None else whole_number("rank", rank)
        self._training = training = Training(model, optimizer, reshard)
        self._predict = model if predict is None else predict
        self._opened = opened = OpenedBatches()
        plan.runner.progress.start()
        self._remembered = Remembered(plan.members, model)
        handlers = Handlers(plan, training, opened, self._remembered)
        self._update = Update(update, scaler, handlers.on_gradients())
        self._loop = SpanContext(training, opened, handlers, Fired(handlers, opened), plan.contract)
        self._busy = frozenset(hook.effect.event for hook in plan.hooks)
        self._hooked = [member for member in plan.members if member.declaration.hooks]
        with self.span(Event.SETUP):
            pass

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self._training.model

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer, which may be set after surgery."""
        return self._training.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        self._training.optimizer = optimizer

    @property
    def batches(self) -> int:
        """The number of device batches that are done."""
        return self._training.batches

    @batches.setter
    def batches(self, batches: int) -> None:
        self._training.batches = batches

    def span(self, event: Event) -> AbstractContextManager[None]:
        """Return a span of the loop: its hooks run before, around and after its body."""
        if self._remembered.states is None and event is not Event.SETUP:
            self._remembered()
        return Span(self._loop, event) if event in self._busy else _NOTHING

    def fit(self) -> AbstractContextManager[None]:
        """Return the span of the whole training."""
        return self.span(Event.FIT)

    def epoch(self) -> AbstractContextManager[None]:
        """Return the span of one pass over the data."""
        return self.span(Event.EPOCH)

    def evaluation(self) -> AbstractContextManager[None]:
        """Return the span in which the model holds the weights for evaluation and export."""
        return self.span(Event.EVALUATION)

    def forward(self) -> AbstractContextManager[None]:
        """Return the span of a forward pass."""
        return self.span(Event.FORWARD)

    def loss(self) -> AbstractContextManager[None]:
        """Return the span of computing the loss."""
        return self.span(Event.LOSS)

    def backward(self) -> AbstractContextManager[None]:
        """Return the span of a backward pass."""
        return self.span(Event.BACKWARD)

    @contextmanager
    def batch(self, inputs: Inputs, targets: Tensor, *, donate: bool = False) -> Iterator[Batch]:
        """Edit a device batch, and span its use; ``batches`` grows by one at its end.

        ``inputs`` and ``targets`` as in ``Plan.__call__``; the edited ones are those of the batch that it yields. Open
        several, nested, around one ``step`` that takes them together; each has its own number and draws.
        """
        number = self.batches + len(self._opened.all)
        batch, draws = self.plan.runner.edit(
            inputs,
            targets,
            number,
            rank=self.rank,
            donate=donate,
            sample_losses=self._sample_losses,
        )
        try:
            with self._opened.opened(self._activate(number, batch, draws)), self.span(Event.BATCH):
                yield batch
            self.batches += 1
        finally:
            self._training.loss = None
            self._loop.fired.forget(number)

    def on(self, index: int) -> AbstractContextManager[None]:
        """Make the passes within over one of several open batches, counted from 0 in the order of opening."""
        return self._opened.on(index)

    def _sample_losses(self, batch: Batch) -> Tensor:
        """Return the loss of each sample, from a forward pass in evaluation mode that leaves the model as it was."""
        loss = self.plan.loss_spec
        assert loss is not None
        assert loss.each is not None
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad():
                return loss.each(self._predict(*batch.all_inputs), batch.targets)
        finally:
            for module, mode in modes:
                module.training = mode

    def _activate(self, number: int, batch: Batch, draws: dict[str, Any]) -> Opened:
        """Find whose hooks act on this batch, and give those that edit nothing their draws."""
        dice = Dice(self.plan.facts.seed, number, self.rank)
        acting = [member for member in self._hooked if dice.acts(member)]
        for member in acting:
            if member.identity not in draws:
                draws[member.identity] = self.plan.runner.draw(member, batch.spec, dice)
        return Opened(number, batch, draws, frozenset(member.identity for member in acting))

    def step(self, closure: Callable[[], Tensor], *, ran: Tensor | None = None) -> Tensor:
        """Run one optimizer step and return the loss.

        ``closure()`` runs the forward and backward passes of every open device batch, whole, and returns the loss;
        gradients are zeroed before it runs, and a method may run it more than once. Where several batches are open, the
        passes over each are made in ``with engine.on(index):``. A loop that has already made these passes, with their
        gradients in place, passes their loss as ``ran``: the closure then runs only if a method repeats it. Raises
        ``EngineRequiredError`` if a span with hooks is missing, and ``RunError`` for ``ran`` if a method acts before
        the passes.
        """
        with self.update(closure, ran=ran) as loss:
            self._update(self._ready(), loss, self._zeroed(closure))
        return loss

    @contextmanager
    def update(self, closure: Callable[[], Tensor], *, ran: Tensor | None = None) -> Iterator[Tensor]:
        """Span the update of one optimizer step, for a loop that steps the optimizer in the body of the span.

        Yields the loss when the gradients are ready for the optimizer; the arguments are as in ``step``.
        """
        optimizer = self._ready()
        self._update.check(closure)
        if ran is not None:
            self._check_nothing_first()
        with self.span(Event.STEP):
            run = self._zeroed(closure) if ran is None else self._first(ran, closure)
            run = self._update.unscaled(run, optimizer)
            for call, state, scope in reversed(self._loop.handlers.at(Event.STEP).replace):
                run = partial(call, state, scope, run)
            self._training.loss = loss = run()
            with self.span(Event.UPDATE):
                yield loss

    @property
    def original(self) -> Tensor:
        """The unedited targets of the current batch; raises ``RunError`` if no batch is open."""
        if self._opened.at_hand is None:
            raise RunError("no batch is open: read engine.original within engine.batch(...)")
        return self._opened.at_hand.batch.original

    def draws(self) -> dict[str, Any]:
        """Return the draws of the methods that act on the current batch, by their names in the plan."""
        return {} if self._opened.at_hand is None else dict(self._opened.at_hand.draws)

    def state_dict(self, *, whole: bool = False) -> dict[str, Tensor]:
        """Return the state of the algorithms and the number of batches done, as tensors by flat names.

        ``origin`` holds the plan and the versions, as bytes. The averages of a sharded model are sharded in the same
        way. ``whole`` gathers them; all processes must call it then.
        """
        own = {"batches": torch.tensor(self.batches), "origin": pack_origin(self.plan)}
        return {**own, **pack_states(self._remembered(), gathered=whole)}

    def load_state_dict(self, packed: Mapping[str, Tensor], *, allow_changes: bool = False) -> None:
        """Load what ``state_dict`` returned, saved by the same plan in the same versions.

        With ``allow_changes`` these may differ. Raises ``CheckpointError`` if they differ without it, and for names or
        shapes that do not fit.
        """
        if not allow_changes:
            check_origin(self.plan, packed.get("origin"))
        load_states(self._remembered, {name: v for name, v in packed.items() if name not in ("batches", "origin")})
        self._loop.handlers.forget()
        self.batches = int(packed["batches"])

    def _ready(self) -> Optimizer:
        if self.optimizer is None:
            raise CounterpointError("the engine has no optimizer yet: set engine.optimizer before the first step")
        return self.optimizer

    def _zeroed(self, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            self._ready().zero_grad()
            return self._loop.fired.run(closure)

        return run

    def _first(self, ran: Tensor, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return a closure whose first run is the one that the loop has made."""
        self._loop.fired.check()
        runs = chain([lambda: ran], repeat(self._zeroed(closure)))
        return lambda: next(runs)()

    def _check_nothing_first(self) -> None:
        acting = self._loop.handlers.at(Event.STEP)
        first = [*(scope.owner for _, _, scope in acting.before), *(handler.step.name for handler in acting.around)]
        if first:
            raise RunError(
                f"{', '.join(first)} acts before the passes of each step, which this "
                "loop makes before it steps: use a loop that gives engine.step a closure, or leave the method out"
            )
