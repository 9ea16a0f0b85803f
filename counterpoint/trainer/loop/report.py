"""The output of a run: a progress bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["LineReport", "Meter", "ProgressReport", "Report", "Silence", "make_report"]

_SECONDS_BETWEEN_STEPS = 0.2
_SECONDS_BETWEEN_LINES = 30.0


class Meter:
    """Measures examples a second and the time left, from the moment it is made.

    ``done`` of ``total`` steps were done before. ``clock`` returns seconds.
    """

    def __init__(self, total: int, done: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._total, self._first = clock, total, done
        self._began = clock()
        self._examples = 0

    def add(self, examples: int) -> None:
        """Count examples that were trained on."""
        self._examples += examples

    @property
    def rate(self) -> float:
        """Examples a second so far."""
        return self._examples / max(self._clock() - self._began, 1e-9)

    def left(self, step: int) -> str:
        """Return the time that the steps after ``step`` will take, as minutes and seconds."""
        done = max(step - self._first, 1)
        seconds = round((self._clock() - self._began) / done * (self._total - step))
        hours, rest = divmod(seconds, 3600)
        return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class Report:
    """The base of the outputs of a run: it defines when each method is called."""

    interval = _SECONDS_BETWEEN_STEPS

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._shown = clock()
        self._meter = Meter(1, 0, clock)

    def start(self, total: int, done: int, steps_per_epoch: int) -> None:
        """Begin to train: ``done`` of ``total`` steps are done."""
        self._total, self._steps_per_epoch = total, steps_per_epoch
        self._meter = Meter(total, done, self._clock)
        self._shown = self._clock()

    def due(self, examples: int) -> bool:
        """Count the examples of a step; whether it is time to show it, which costs a wait for the device."""
        self._meter.add(examples)
        if self._clock() - self._shown < self.interval:
            return False
        self._shown = self._clock()
        return True

    def _epoch_of(self, step: int) -> str:
        """Name the epoch of the step before ``step``, and how many there are."""
        return f"epoch {-(-step // self._steps_per_epoch)}/{-(-self._total // self._steps_per_epoch)}"

    @abstractmethod
    def message(self, text: str) -> None:
        """Show a text as it is."""

    @abstractmethod
    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Show the values after ``step`` steps."""

    @abstractmethod
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show what was measured over an epoch, or in an evaluation, that ended after ``step`` steps."""

    def close(self) -> None:
        """End what is shown."""
        return


class Silence(Report):
    """Prints nothing: for all processes but the first."""

    interval = float("inf")

    def message(self, text: str) -> None:
        """Do nothing."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""


class LineReport(Report):
    """A line for each epoch and each evaluation, and one every half minute in between."""

    interval = _SECONDS_BETWEEN_LINES

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(clock)
        self._console = console

    def message(self, text: str) -> None:
        """Print the text."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line."""
        self.message(self._line(step, values))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line."""
        self._shown = self._clock()
        self.message(self._line(step, values))

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        speed = f"{self._meter.rate:,.0f} images/s  {self._meter.left(step)} left"
        return f"{self._epoch_of(step)}  step {step}/{self._total}  {_words(values)}  {speed}"


class ProgressReport(Report):
    """A progress bar over the whole run, with a line above it for each epoch and each evaluation."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(clock)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),  # so that everything fits into 80 columns
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[values]}"),
            console=console,
        )
        self._task: TaskID | None = None

    def start(self, total: int, done: int, steps_per_epoch: int) -> None:
        """Show the bar."""
        super().start(total, done, steps_per_epoch)
        self._task = self._progress.add_task(self._epoch_of(max(done, 1)), total=total, completed=done, values="")
        self._progress.start()

    def message(self, text: str) -> None:
        """Print the text above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Move the bar."""
        if self._task is not None:
            shown = f"{_words(values, digits=3)}  {self._meter.rate:,.0f} images/s"
            self._progress.update(self._task, completed=step, description=self._epoch_of(step), values=shown)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Print a line above the bar."""
        self.message(f"{self._epoch_of(step)}  {_words(values)}")
        if self._task is not None:
            self._progress.update(self._task, completed=step, description=self._epoch_of(step))

    def close(self) -> None:
        """Leave the bar as it is."""
        self._progress.stop()


def make_report(*, active: bool = True) -> Report:
    """Return the report that suits where the output goes; a silent one for ``active=False``."""
    console = Console()
    if not active:
        return Silence()
    return ProgressReport(console) if console.is_terminal else LineReport(console)


def _words(values: Mapping[str, float], digits: int = 4) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.{digits}g}" for name, value in values.items())
