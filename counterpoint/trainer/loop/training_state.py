"""Save and restore everything that a run needs to resume bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from counterpoint.core.errors import CheckpointError
from counterpoint.core.run.training.engine import Engine
from counterpoint.core.tensors.names import load_state, state_of
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.loop.metrics import TrainingMetrics
from counterpoint.trainer.runs.checkpoint import Checkpoint, join_optimizer, split_optimizer

__all__ = ["Snapshot"]

_RATES = ("optimizer", "scheduler", "max_duration")
"""Keys that settle the optimizer's settings over the run."""


@dataclass(frozen=True)
class Snapshot:
    """The parts of a run that change as it goes on.

    Every random number is keyed by the step, so the state of generators is not needed.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    engine: Engine
    metrics: TrainingMetrics
    scaler: GradScaler | None

    def take(self, config: RunConfig, **loop: Any) -> Checkpoint:
        """Return everything as a checkpoint, with what the loop adds of its own."""
        optimizer, optimizer_data = split_optimizer(self.optimizer.state_dict())
        parts = {
            "model": state_of(self.model),
            "optimizer": optimizer,
            "engine": self.engine.state_dict(),
            "metrics": self.metrics.state_dict(),
        }
        tensors = {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
        data = {
            "step": self.engine.batches,
            "fingerprint": self.engine.plan.fingerprint,
            "config": config.resolved(),
            "optimizer": optimizer_data,
            "scheduler": self.scheduler.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            **loop,
        }
        return Checkpoint(tensors, data)

    def restore(self, checkpoint: Checkpoint, config: RunConfig, *, first_process: bool) -> None:
        """Restore everything, except settings that differ between ``config`` and the saved run.

        Raises ``CheckpointError`` if it does not fit.
        """
        before, now = checkpoint.data["config"], config.resolved()
        if before["optimizer"]["name"] != now["optimizer"]["name"]:
            raise CheckpointError(
                f"optimizer: {now['optimizer']['name']} cannot go on from what {before['optimizer']['name']} has kept; "
                "undo this, choose another run_dir, or start afresh with --overwrite"
            )
        settings = [{**group, "params": None} for group in self.optimizer.param_groups]
        rates = [float(rate) for rate in self.scheduler.base_lrs]
        try:
            load_state(self.model, checkpoint.part("model"))
            self.optimizer.load_state_dict(join_optimizer(checkpoint.part("optimizer"), checkpoint.data["optimizer"]))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint is of another model: {error}") from error
        self.scheduler.load_state_dict(checkpoint.data["scheduler"])
        if any(before[key] != now[key] for key in _RATES):
            self._set(settings, rates)
        self.engine.load_state_dict(checkpoint.part("engine"), allow_changes=True)  # the run compares configs
        self.metrics.load_state_dict(checkpoint.part("metrics"), share=1.0 if first_process else 0.0)
        if self.scaler is not None:
            self.scaler.load_state_dict(checkpoint.data["scaler"])

    def _set(self, settings: list[dict[str, Any]], rates: list[float]) -> None:
        """Put a config's settings in the place of those kept, at the point of the schedule that was reached."""
        self.scheduler.base_lrs = [*rates]
        for group, own, rate, factor in zip(
            self.optimizer.param_groups, settings, rates, self.scheduler.lr_lambdas, strict=True
        ):
            group.update({**own, "params": group["params"], "lr": rate * factor(self.scheduler.last_epoch)})
