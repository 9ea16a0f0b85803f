"""The training loop: runs the engine's events, measures, and writes checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from counterpoint.core.declare.durations import Duration
from counterpoint.core.declare.randomness import Rng
from counterpoint.core.run.plan import Plan
from counterpoint.core.run.training.engine import Engine
from counterpoint.core.run.training.shares import as_mean
from counterpoint.core.tensors.names import state_of
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.data.dataset import DataModule
from counterpoint.trainer.data.examples import batches
from counterpoint.trainer.data.prefetch import prefetch
from counterpoint.trainer.data.sampler import Epochs, evaluation_loader, train_loader
from counterpoint.trainer.loop.metrics import EvaluationMetrics, TrainingMetrics
from counterpoint.trainer.loop.microbatches import passes_over
from counterpoint.trainer.loop.nonfinite import LossWatch
from counterpoint.trainer.loop.report import Report
from counterpoint.trainer.loop.signals import Stop, Stopped
from counterpoint.trainer.loop.trackers import Trackers
from counterpoint.trainer.loop.training_state import Snapshot
from counterpoint.trainer.runs.checkpoint import Checkpoint, checkpoint_path, prune_checkpoints, write_checkpoint
from counterpoint.trainer.runs.directory import RunDirectory
from counterpoint.trainer.runs.record import RunRecord
from counterpoint.trainer.setup.composition import is_due, total_batches, trains_on_dense

__all__ = ["Job", "Loop"]

_STEPS_BETWEEN_LOOKS = 16


@dataclass(frozen=True)
class Job:
    """The model, the data, the folder, the trackers and the signals of a run; without ``folder`` nothing is written."""

    config: RunConfig
    plan: Plan
    data: DataModule
    model: nn.Module
    accelerator: Accelerator
    sampler: Epochs
    folder: RunDirectory | None
    report: Report
    stop: Stop
    trackers: Trackers
    record: RunRecord


class Loop:
    """Trains a model as a job says; ``metrics`` are the last ones measured, and ``step`` the device batches done."""

    def __init__(self, job: Job) -> None:
        self._job, self._plan, self._accelerator = job, job.plan, job.accelerator
        self._config, self._folder, self._report = job.config, job.folder, job.report
        self._steps, self._total = job.sampler.batches, total_batches(job.config, job.sampler)
        self.metrics: dict[str, float] = {}
        self._is_measured = True

        # The engine is created first: it may change the model's modules, and the optimizer needs the new parameters.
        self._raw = job.model.to(job.accelerator.device)
        self._engine = Engine(job.plan, model=self._raw, rank=job.accelerator.process_index)
        optimizer = job.config.optimizer.build(self._raw)
        self._scheduler = job.config.scheduler.build(optimizer, total=self._total, steps_per_epoch=self._steps)
        self._model, prepared = job.accelerator.prepare(self._raw, optimizer)
        # Accelerate's wrapper of an optimizer is for scaled gradients, and looks for a package at each step.
        self._optimizer = optimizer if job.accelerator.scaler is None else prepared
        self._engine.optimizer = self._optimizer

        device = job.accelerator.device
        self._measured = TrainingMetrics(job.data.spec, dense=trains_on_dense(job.plan), device=device)
        self._looks = 1 if device.type == "cpu" else _STEPS_BETWEEN_LOOKS
        self._watch = LossWatch(self._looks)
        self._loader = train_loader(job.data.train, job.sampler, seed=job.config.seed, workers=job.config.workers)
        self._snapshot = Snapshot(
            self._raw, optimizer, self._scheduler, self._engine, self._measured, job.accelerator.scaler
        )

    @property
    def step(self) -> int:
        """The number of device batches done."""
        return self._engine.batches

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self._snapshot.restore(checkpoint, self._config, first_process=self._accelerator.is_main_process)
        self._is_measured, self._lr = checkpoint.data["measured"], checkpoint.data["lr"]
        self._watch.go_back = f"the last checkpoint is that of step {self.step}"

    def run(self) -> bool:
        """Train to the end, write the final weights, those for evaluation, and return whether that end was reached.

        A run that is asked to stop ends between two batches or within an evaluation, with a checkpoint.

        Layers such as dropout draw from torch's global generator, which is seeded for each step and restored at the
        end.
        """
        self._report.start(self._total, self.step, self._steps)
        device = self._accelerator.device
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []), self._engine.fit():
                if not self._is_measured:
                    self._after_step()
                while self.step < self._total:
                    with self._engine.epoch():
                        self._epoch()
                with self._engine.evaluation():
                    if self._folder is not None and self._accelerator.is_main_process:
                        self._folder.finish(state_of(self._raw), self._record())
        except Stopped:
            how = "without run_dir nothing is kept" if self._folder is None else "go on by --resume or fit(resume=True)"
            self._report.message(f"{self._job.stop.name}: stopped after step {self.step}; {how}")
            return False
        finally:
            self._report.close()
        return True

    def _record(self) -> dict[str, Any]:
        """Return what the exported weights say of the run."""
        mark = {} if self._folder is None else self._folder.metrics_mark._asdict()
        own = {"step": self.step, "total": self._total, "plan": self._plan.fingerprint, "metrics": mark}
        return {**own, "classes": list(self._job.data.spec.classes), "code": self._job.record.code["components"]}

    def _epoch(self) -> None:
        """Train to the end of the epoch, from wherever in it the run stands."""
        self._job.sampler.start(*divmod(self.step, self._steps))
        self._model.train()
        for inputs, targets in prefetch(batches(self._loader, "training"), self._accelerator.device):
            self._train(inputs, targets)
            self._after_step()
            if self.step == self._total:
                break

    def _train(self, inputs: Tensor, targets: Tensor) -> None:
        """Train on a device batch."""
        step = self.step
        self._seed_layers(step)
        with self._engine.batch(inputs, targets, donate=True) as batch:
            passes = passes_over(self._engine, self._model, self._accelerator, batch, self._config.accumulate)
            loss = self._engine.step(passes)
            self._watch.add(step, loss, self._engine.draws(), batch.inputs)
            self._measured.update(*passes.as_mean(loss), passes.outputs, batch.targets)
            self._lr = float(self._optimizer.param_groups[0]["lr"])
        if not self._accelerator.optimizer_step_was_skipped:
            self._scheduler.step()
        if self._report.due(len(inputs) * self._accelerator.num_processes):
            self._watch.check()
            self._report.step(self.step, {"loss": self._watch.last, **self._measured.local_accuracy()})

    def _seed_layers(self, step: int) -> None:
        seed = int(Rng(self._config.seed, "layers", step, self._engine.rank).integers(0, 2**31))
        # For a CUDA that may start later torch.manual_seed keeps each seed, with the stack of the call.
        (torch.default_generator if self._accelerator.device.type == "cpu" else torch).manual_seed(seed)

    def _after_step(self) -> None:
        """Measure and save, where either is due; if the run is to stop, save at once and measure when it goes on."""
        self._is_measured = False
        try:
            if self._accelerator.num_processes == 1 or self.step % self._looks == 0:
                self._check_stop()
            self._measure()
        except Stopped:
            self._save()
            raise
        self._is_measured = True
        if self._is_due(self._config.checkpoint_every):
            self._save()

    def _check_stop(self) -> None:
        if self._job.stop.asked(self._accelerator):
            raise Stopped

    def _measure(self) -> None:
        """Measure where it is due; nothing has changed if it is cut short."""
        values: dict[str, float] = {}
        classes: dict[str, float] = {}
        ends_epoch = self.step % self._steps == 0 or self.step == self._total
        if ends_epoch:
            self._watch.check()
            values |= self._measured.compute()
        if self._is_due(self._config.eval_every):
            found = self._evaluate()
            values |= found.compute()
            classes = found.by_class()
        if ends_epoch:
            self._measured.reset()
        if values:
            self._note(values, classes)

    def _is_due(self, every: Duration) -> bool:
        return is_due(every, self.step, steps_per_epoch=self._steps, total=self._total)

    def _note(self, values: Mapping[str, float], classes: Mapping[str, float]) -> None:
        """Write and show what was measured; the accuracy of each class is not shown."""
        self.metrics |= {**values, **classes}
        if self._folder is not None and self._accelerator.is_main_process:
            epoch = -(-self.step // self._steps)
            told = {"lr": self._lr, **values, **classes}
            self._folder.add_metrics({"epoch": epoch, "step": self.step, **told})
            self._job.trackers.log({"epoch": epoch, **told}, self.step)
        self._report.metrics(self.step, values)

    def _evaluate(self) -> EvaluationMetrics:
        """Measure on the evaluation data, with the weights for evaluation.

        The unwrapped model runs, because processes may have different numbers of batches here, and a wrapped one
        would wait for the others in each.
        """
        accelerator, plan = self._accelerator, self._plan
        metrics = EvaluationMetrics(self._job.data.spec, device=accelerator.device)
        loader = evaluation_loader(
            self._job.data.evaluation,
            self._job.sampler.batch_size,
            workers=self._config.workers,
            rank=accelerator.process_index,
            ranks=accelerator.num_processes,
        )
        with self._engine.evaluation(), torch.no_grad():
            # Each process has batch-norm statistics of its own batches; those of the first are what is exported.
            broadcast(list(self._raw.buffers()))
            self._raw.eval()
            for inputs, targets in prefetch(batches(loader, "evaluation"), accelerator.device):
                prepared, wanted = plan.prepare(inputs, targets)
                outputs = self._raw(prepared)
                metrics.update(*as_mean(plan, plan.loss(outputs, wanted), wanted), outputs, targets)
                if accelerator.num_processes == 1:  # several have different numbers of batches here
                    self._check_stop()
            self._raw.train()
        return metrics

    def _save(self) -> None:
        """Write a checkpoint if all weights are finite, and delete older ones."""
        self._watch.check()
        self._watch.check_weights(self.step, self._raw)
        if self._folder is None:
            return
        checkpoint = self._snapshot.take(
            self._config,
            total=self._total,
            metrics_size=self._folder.metrics_mark.size,
            metrics_sha256=self._folder.metrics_mark.sha256,
            measured=self._is_measured,
            lr=self._lr,
            processes=self._accelerator.num_processes,
            batch_size=self._job.sampler.batch_size,
            code=self._job.record.code,
            data=self._job.record.data,
        )
        if self._accelerator.is_main_process:
            write_checkpoint(self._folder.checkpoints, self.step, checkpoint)
            prune_checkpoints(self._folder.checkpoints)
        self._accelerator.wait_for_everyone()
        self._watch.go_back = f"the last checkpoint is {checkpoint_path(self._folder.checkpoints, self.step)}"
