"""What changes the parameters in a step: the optimizer, through a gradient scaler or with a closure of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, repeat

from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from counterpoint.core.errors import RunError

__all__ = ["Update", "takes_closure"]


def takes_closure(optimizer: Optimizer) -> bool:
    """Whether the optimizer's step needs a closure, such as that of LBFGS.

    >>> import torch
    >>> parameters = [torch.nn.Parameter(torch.ones(1))]
    >>> takes_closure(torch.optim.LBFGS(parameters)), takes_closure(torch.optim.SGD(parameters, lr=0.1))
    (True, False)
    """
    return _requires_closure(type(optimizer).step)


@cache
def _requires_closure(step: Callable[..., object]) -> bool:
    given = inspect.signature(step).parameters.get("closure")
    return given is not None and given.default is inspect.Parameter.empty


@dataclass
class Update:
    """Changes the parameters: ``function``, else the optimizer, through ``scaler`` where the loop has one.

    ``names`` are the methods that see gradients.
    """

    function: Callable[[], object] | None
    scaler: GradScaler | None
    names: Sequence[str]
    looked: bool = False

    def check(self, closure: Callable[[], Tensor]) -> None:
        """Raise ``RunError`` where a closure scales the loss, and what is done with the gradients ignores that.

        A closure that unscales them is right, with an update that steps through the scaler. It is looked at once, for
        a scaler among the variables that it uses.
        """
        if self.looked or self.scaler is not None:
            return
        self.looked = True
        if not inspect.isfunction(closure) or "unscale_" in closure.__code__.co_names:
            return
        used = inspect.getclosurevars(closure)
        scalers = [name for name, value in chain(used.nonlocals.items(), used.globals.items()) if _scales(value)]
        if scalers and (self.names or self.function is None):
            who = f"{', '.join(self.names)} would see" if self.names else "the optimizer would use"
            raise RunError(
                f"the closure scales the loss by {scalers[0]!r}, so {who} scaled gradients: give it to the engine, "
                f"Engine(..., scaler={scalers[0]})"
            )

    def unscaled(self, run: Callable[[], Tensor], optimizer: Optimizer) -> Callable[[], Tensor]:
        """Return passes whose gradients are divided by the scale, where there is a scaler.

        Raises ``RunError`` where a method runs them again: a scaler unscales gradients once a step.
        """
        scaler = self.scaler
        if scaler is None or not scaler.is_enabled():
            return run
        runs = count()

        def unscaled() -> Tensor:
            if next(runs):
                raise RunError(
                    f"{', '.join(self.names)} runs the closure more than once, and a GradScaler unscales gradients "
                    "once a step: use bfloat16 or float32, which need no scaler, or leave the method out"
                )
            loss = run()
            try:
                scaler.unscale_(optimizer)
            except (AssertionError, RuntimeError) as error:
                raise RunError(
                    f"the engine's scaler cannot unscale the gradients ({error}): the closure calls "
                    "scaler.scale(loss).backward(), and leaves unscale_, step and update to the engine"
                ) from error
            return loss

        return unscaled

    def __call__(self, optimizer: Optimizer, loss: Tensor, again: Callable[[], Tensor]) -> None:
        """Change the parameters; ``again`` repeats the passes, for an optimizer that needs that."""
        if self.function is not None:
            self.function()
        elif takes_closure(optimizer):
            self._step_with_closure(optimizer, loss, again)
        elif self.scaler is not None:
            self.scaler.step(optimizer)
            self.scaler.update()
        else:
            optimizer.step()

    def _step_with_closure(self, optimizer: Optimizer, loss: Tensor, again: Callable[[], Tensor]) -> None:
        name = type(optimizer).__name__
        if self.names:
            raise RunError(
                f"{name} makes passes of its own within its step, whose gradients {', '.join(self.names)} would not "
                "see: use another optimizer, or leave the method out"
            )
        if self.scaler is not None:
            raise RunError(f"{name} makes passes of its own, which a GradScaler does not support: leave the scaler out")
        passes = chain([lambda: loss], repeat(again))
        optimizer.step(lambda: float(next(passes)()))


def _scales(value: object) -> bool:
    return isinstance(value, GradScaler) and value.is_enabled()
