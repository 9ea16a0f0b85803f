"""The trainer: trains by a config, with the config's or your own model and data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from counterpoint.core.declare.effects import Phase
from counterpoint.core.declare.kinds import Field
from counterpoint.core.errors import RunError
from counterpoint.core.remedies import Write
from counterpoint.core.run.plan import Plan
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.validation_errors import setting_error
from counterpoint.trainer.config.yaml import load_config
from counterpoint.trainer.data.dataset import Data, DataSpec
from counterpoint.trainer.data.sampler import make_epochs
from counterpoint.trainer.loop.distributed import check_agreement, failures, make_accelerator, peers
from counterpoint.trainer.loop.report import Report, make_report
from counterpoint.trainer.loop.signals import Stop, signals_held
from counterpoint.trainer.loop.trackers import Trackers, check_trackers, tracking
from counterpoint.trainer.runs.changes import differences
from counterpoint.trainer.runs.checkpoint import Checkpoint, list_checkpoints
from counterpoint.trainer.runs.data_record import data_record
from counterpoint.trainer.runs.directory import RunDirectory
from counterpoint.trainer.runs.lock import locked
from counterpoint.trainer.runs.provenance import provenance
from counterpoint.trainer.runs.record import RunRecord
from counterpoint.trainer.runs.resume import Begin, find_begin, make_ready
from counterpoint.trainer.setup.composition import additions, plan_run, total_batches
from counterpoint.trainer.setup.global_batch import Split, microbatch_notes
from counterpoint.trainer.setup.limits import batch_notes, check_microbatches, check_optimizer, check_workers
from counterpoint.trainer.setup.model_and_data import asked_batch_size, bring_together, check_loaders, check_prepared

__all__ = ["Summary", "Trainer"]


@dataclass(frozen=True)
class Summary:
    """How a run ended: the device batches done, the metrics last measured, and where the weights are."""

    steps: int
    metrics: dict[str, float]
    model_path: Path | None


class Trainer:
    """Trains a model by a config, with the methods that it lists checked and composed.

    Making a trainer checks everything and writes nothing; ``plan`` is what was composed. ``fit`` reads through what
    data there is in files, and trains.

    Args:
        config: a ``RunConfig``, what one is parsed from, or the path of a YAML file.
        model: your own model, instead of the config's. It is trained in place.
        train_data: your own training data, instead of the config's: a map-style data set of items (input, target), or a
            DataLoader of batches of them. A DataLoader is used as it is, except for the seeds of its generators.
        eval_data: the same for evaluation.
        batch_size: examples in a device batch of a data set given here; by default that of the config's ``data``, 128
            if the config has none.
        spec: the facts about your own data. Without it, the shape and the kind of the inputs are those of the first
            item, and the number of classes is that of the outputs of ``model``.
        model_inputs: the kinds of inputs that ``model`` takes, as ``{"bytes"}``; by default any but raw bytes.

    Raises:
        ConfigError: the config is wrong, or does not fit the data, the model or the device.
        CompositionError: the methods do not fit each other, the data, the loss or the model.
        DataError: the data is not whole, or not what it was said to be.
        RunDirectoryError: ``run_dir`` cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     config = {"task": "multiclass", "data": "digits", "model": "mlp", "max_duration": "2ba", "run_dir": folder}
    ...     summary = Trainer({**config, "algorithms": ["mixup", "ema"]}).fit()  # doctest: +ELLIPSIS
    ...     summary.steps, summary.model_path.exists()
    plan ...
    (2, True)
    """

    def __init__(
        self,
        config: RunConfig | Mapping[str, Any] | str | Path,
        *,
        model: nn.Module | None = None,
        train_data: Data | None = None,
        eval_data: Data | None = None,
        batch_size: int | None = None,
        spec: DataSpec | None = None,
        model_inputs: Collection[str] | None = None,
    ) -> None:
        self.config = _read_config(config)
        self._folder = None if self.config.run_dir is None else RunDirectory(self.config.run_dir)
        if self._folder is not None:
            self._folder.check(resume=True)
        check_trackers(self.config.trackers, self.config.run_dir)
        check_workers(self.config.workers)
        self._accelerator = make_accelerator(self.config.precision)
        self.model, self.data, outputs = bring_together(
            self.config,
            self._accelerator.device,
            model=model,
            train_data=train_data,
            eval_data=eval_data,
            spec=spec,
            model_inputs=model_inputs,
        )
        check_loaders(self.data, self._accelerator.num_processes)
        self._asked = asked_batch_size(self.config, self.data.train, batch_size)
        self._sampler = make_epochs(
            self.data.train,
            self._asked,
            seed=self.config.seed,
            rank=self._accelerator.process_index,
            ranks=self._accelerator.num_processes,
        )
        self.plan = plan_run(
            self.config,
            self.data.spec,
            self._sampler,
            model=self.model,
            outputs=outputs,
            device=str(self._accelerator.device),
            model_inputs=model_inputs,
        )
        self._added = additions(self.config, self.data.spec, model_inputs)
        check_prepared(self.plan, self.model, self.data, self._accelerator)
        _check_precision(self.config.precision, self.plan)
        check_microbatches(self.config.accumulate, self._sampler.batch_size)
        total = total_batches(self.config, self._sampler)
        check_optimizer(self.config, self.model, total=total, steps_per_epoch=self._sampler.batches)
        self._has_run, self._record = False, RunRecord()

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that are not part of the plan: about the data, the list, the model and the processes."""
        split = self._split
        added = [
            f"{method.identity} was added, as the data gives bytes; list it to choose otherwise"
            for method in self._added
        ]
        several = [f"{split.processes} processes: the global batch is {split} examples"] if split.processes > 1 else []
        short = batch_notes(self._asked, split.batch_size, split.processes)
        return (*self.data.notes, *short, *added, *several, *microbatch_notes(self.plan, self.model))

    @property
    def _split(self) -> Split:
        return Split(self._accelerator.num_processes, self._sampler.batch_size)

    def fit(self, *, resume: bool = False, overwrite: bool = False, allow_changes: bool = False) -> Summary:
        """Train to the end, once.

        ``resume`` goes on from the last complete checkpoint in ``run_dir``, or starts a new run if there is none; a
        finished run is not changed. ``overwrite`` deletes the run in ``run_dir`` first. ``allow_changes`` resumes a run
        that differs from this one and reports the differences. Its checkpoint must fit the model, the optimizer and the
        methods. A finished run goes on if ``max_duration`` is now longer.

        In the main thread, SIGINT and SIGTERM end the run after the current batch, with a checkpoint, and are then
        passed on to the previous handlers.

        Raises:
            RunDirectoryError: ``run_dir`` holds a run and neither is set, it cannot be written, or is in use.
            CheckpointError: the run to resume differs from this one, none of its checkpoints is whole, or one cannot
                be written.
            NonFiniteLossError: the loss became NaN or infinite.
            DataError: the data is not whole, or a batch is not what it was said to hold.
            RunError: another process of the run has ended, or differs from this one; ``allow_changes`` is set without
                ``resume``.
        """
        if self._has_run:
            raise RunError("this trainer has run already, and its model is trained: make a new Trainer")
        if allow_changes and not resume:
            raise RunError("allow_changes says how to go on with a run: give it with resume=True, or leave it out")
        with peers(self._accelerator, self._go_back):
            return self._fit(resume=resume, overwrite=overwrite, allow_changes=allow_changes)

    def _go_back(self) -> str:
        """Say what there is to go on from."""
        kept = [] if self._folder is None else list_checkpoints(self._folder.checkpoints)
        if not kept:
            return "there is no checkpoint to go back to"
        return f"the last checkpoint is {kept[-1]}: go on from it by --resume or fit(resume=True)"

    def _fit(self, *, resume: bool, overwrite: bool, allow_changes: bool) -> Summary:
        """Train to the end."""
        self.data.verify()
        report = make_report(active=self._accelerator.is_main_process)
        with signals_held() as stop, ExitStack() as held:
            if self._folder is not None:
                self._folder.check(resume=resume, overwrite=overwrite)
                if self._accelerator.is_main_process:
                    held.enter_context(locked(self._folder.path))
            begin = self._begin(report, resume=resume, overwrite=overwrite, allow_changes=allow_changes)
            if begin.is_finished and self._folder is not None:
                report.message(f"{self._folder.path} holds this run, finished; nothing is left to do")
                return Summary(begin.step, self._folder.last_metrics(), self._folder.model)
            self._has_run = True
            report.message("\n".join([self.plan.explain(), *self.notes]))
            if self.config.compile:
                report.message("compiling the plan: some of the first batches take seconds longer")
            trackers = Trackers()
            if self._folder is not None and self._accelerator.is_main_process:
                trackers = held.enter_context(tracking(self.config, self.plan, self._folder.trackers, step=begin.step))
            summary = self._train(begin.checkpoint, report, stop, trackers)
        if summary is None:  # at the end of `with`, the program's own handler of the signal let it go on
            raise RunError(f"the run was ended by {stop.name}; go on with it by resume=True")
        return summary

    def _train(self, checkpoint: Checkpoint | None, report: Report, stop: Stop, trackers: Trackers) -> Summary | None:
        """Train to the end; return ``None`` if the run was stopped before it."""
        # The loop needs torchmetrics, which takes seconds to import; checking a config does without it.
        from counterpoint.trainer.loop.loop import Job, Loop

        loop = Loop(
            Job(
                self.config,
                self.plan,
                self.data,
                self.model,
                self._accelerator,
                self._sampler,
                self._folder,
                report,
                stop,
                trackers,
                self._record,
            )
        )
        if checkpoint is not None:
            loop.restore(checkpoint)
            began = int(checkpoint.data["processes"])
            other = f" (begun by {began} processes)" if began != self._split.processes else ""
            report.message(f"resumed after step {loop.step}{other}")
        with failures(lambda: loop.step, self._go_back):
            is_done = loop.run()
        path = None if self._folder is None else self._folder.model
        return Summary(loop.step, loop.metrics, path) if is_done else None

    def _begin(self, report: Report, *, resume: bool, overwrite: bool, allow_changes: bool) -> Begin:
        """Make the folder ready for the run, and return where it begins."""
        folder, begin = self._folder, Begin()
        if folder is not None:
            code = provenance(self.config, self.plan, self.data, self.model)
            self._record = RunRecord(code, data_record(self.data))
        if resume and folder is not None:
            total = total_batches(self.config, self._sampler)
            begin = find_begin(folder, report.message, self._differences, total=total, allow_changes=allow_changes)
        check_agreement({"plan": self.plan.fingerprint, "checkpoint": str(begin)})
        if folder is None:
            return begin
        self._accelerator.wait_for_everyone()  # every process has looked before the first one writes
        if self._accelerator.is_main_process:
            make_ready(folder, self.config, self.plan, self._record, begin, overwrite=overwrite)
        self._accelerator.wait_for_everyone()
        return begin

    def _differences(self, checkpoint: Checkpoint) -> list[str]:
        return differences(checkpoint, self.config, self.plan, self._split, self.model, self._record)


def _read_config(config: RunConfig | Mapping[str, Any] | str | Path) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    return RunConfig.parse(config) if isinstance(config, Mapping) else load_config(config)


def _check_precision(precision: str, plan: Plan) -> None:
    """Refuse hooks that would see gradients scaled for fp16, and another pass over a batch whose scale has changed."""
    names = {
        hook.name
        for hook in plan.hooks
        if hook.effect.phase is Phase.REPLACE or Field.GRADIENTS in hook.effect.reads | hook.effect.writes
    }
    if precision == "fp16" and names:
        raise setting_error(
            f"precision: 'fp16' scales the gradients, which {', '.join(sorted(names))} would use; "
            "write `precision: bf16`",
            (Write(("precision",), "bf16"),),
        )
