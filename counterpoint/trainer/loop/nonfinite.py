"""Stop on a NaN or infinite loss, and report what led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from counterpoint.core.errors import NonFiniteLossError
from counterpoint.core.run.batch.draws import describe_draws

__all__ = ["LossWatch", "describe_draws"]

_FEW = 8


@dataclass(frozen=True)
class _Seen:
    step: int
    loss: Tensor
    draws: Mapping[str, Any]
    inputs: Tensor | None


class LossWatch:
    """Checks the loss of every step, and raises at the first that is NaN or infinite.

    On the CPU each step is checked at once. Elsewhere a check waits for the device, so several steps are checked
    together. The error still names the first, and ``check`` must be called before anything is saved.

    >>> watch = LossWatch()
    >>> watch.add(41, torch.tensor(float("nan")), {"mixup": 0.3})
    Traceback (most recent call last):
        ...
    counterpoint.core.errors.NonFiniteLossError: step 41: the loss is nan; draws of this step: mixup: 0.3. ...
    """

    def __init__(self, every: int = 1, *, go_back: str = "there is no checkpoint to go back to") -> None:
        self.last = float("nan")
        self.go_back = go_back
        self._every, self._seen = every, list[_Seen]()

    def add(self, step: int, loss: Tensor, draws: Mapping[str, Any], inputs: Tensor | None = None) -> None:
        """Take note of a step's loss, a scalar, and of the inputs that the model saw, (N, ...).

        Inputs are kept for the error only where each step is checked at once.
        """
        self._seen.append(_Seen(step, loss.detach(), draws, inputs if self._every == 1 else None))
        if len(self._seen) >= self._every:
            self.check()

    def check(self) -> None:
        """Look at every loss since the last look; raises ``NonFiniteLossError``."""
        if not self._seen:
            return
        losses = torch.stack([seen.loss for seen in self._seen]).tolist()
        for seen, loss in zip(self._seen, losses, strict=True):
            if not abs(loss) < float("inf"):
                raise NonFiniteLossError(
                    f"step {seen.step}: the loss is {loss}; draws of this step: {describe_draws(seen.draws)}. "
                    f"{_cause(seen.inputs)}; {self.go_back}"
                )
        self.last = losses[-1]
        self._seen.clear()

    def check_weights(self, step: int, model: nn.Module) -> None:
        """Look at the trained parameters after ``step`` steps; raises ``NonFiniteLossError`` if one is NaN or infinite.

        A broken update shows in the loss only at the next step, after it may have been saved.
        """
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        finite = torch.stack([value.detach().isfinite().all() for value in trained.values()]).tolist()
        broken = [name for name, is_finite in zip(trained, finite, strict=True) if not is_finite]
        if broken:
            raise NonFiniteLossError(
                f"step {step - 1}: its update made weights NaN or infinite: {', '.join(broken[:_FEW])}. "
                f"A lower optimizer.lr, gradient_clipping or precision: fp32 may help; {self.go_back}"
            )


def _cause(inputs: Tensor | None) -> str:
    """Say what to change: the data where it is NaN or infinite, else what keeps an update small."""
    if inputs is not None and not inputs.isfinite().all():
        samples = (~inputs.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
        few = ", ".join(map(str, samples[:_FEW])) + (", …" if len(samples) > _FEW else "")
        return (
            f"The inputs of this batch are NaN or infinite in {len(samples)} of {len(inputs)} samples (number {few}, "
            "counted from 0): remove such examples from the data, or replace their values"
        )
    return "A lower optimizer.lr or precision: fp32 may help"
