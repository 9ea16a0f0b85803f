from __future__ import annotations

import io
from functools import partial

import pytest
from rich.console import Console

from counterpoint.trainer.loop import report as module
from counterpoint.trainer.loop.report import LineReport, Meter, ProgressReport, Report, Silence, make_report


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _run(report: Report, clock: Clock) -> None:
    """Four steps of 50 images, a second each, of which the second ends an epoch."""
    report.message("the [plan]")
    report.start(total=4, done=0, steps_per_epoch=2)
    for step in range(1, 5):
        clock.now += 1
        if report.due(50):
            report.step(step, {"loss": 1 / step, "accuracy": 0.5})
        if step % 2 == 0:
            report.metrics(step, {"train_loss": 0.25, "evaluation_accuracy": 0.875})
    report.close()


def test_meter() -> None:
    clock = Clock()
    meter = Meter(total=100, done=20, clock=clock)
    clock.now += 8
    meter.add(400)
    assert meter.rate == 50
    assert meter.left(24) == "2:32"  # 76 steps of 2 seconds
    clock.now += 4000
    assert meter.left(24) == "21:09:12"


def test_plain_lines() -> None:
    out, clock = io.StringIO(), Clock()
    _run(LineReport(Console(file=out, width=40), clock), clock)
    assert out.getvalue().splitlines() == [
        "the [plan]",
        "epoch 1/2  step 2/4  train loss 0.25  evaluation accuracy 0.875  50 images/s  0:02 left",
        "epoch 2/2  step 4/4  train loss 0.25  evaluation accuracy 0.875  50 images/s  0:00 left",
    ]


def test_long_epochs_show_a_line_each_half_minute() -> None:
    out, clock = io.StringIO(), Clock()
    report = LineReport(Console(file=out, width=200), clock)
    report.start(total=1000, done=0, steps_per_epoch=1000)
    for step in range(1, 100):
        clock.now += 1
        if report.due(50):
            report.step(step, {"loss": 0.5})
    assert [line.split("  ")[1] for line in out.getvalue().splitlines()] == [
        "step 30/1000",
        "step 60/1000",
        "step 90/1000",
    ]


def test_a_terminal_has_a_bar() -> None:
    out, clock = io.StringIO(), Clock()
    _run(ProgressReport(Console(file=out, width=80, force_terminal=True), clock), clock)
    shown = out.getvalue()
    for text in ("the [plan]", "epoch 2/2", "loss 0.25", "accuracy 0.5", "50 images/s", "00:00"):
        assert text in shown, text
    assert "epoch 1/2  train loss 0.25  evaluation accuracy 0.875" in shown


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    report = make_report(active=False)
    assert isinstance(report, Silence)
    _run(report, Clock())
    assert not report.due(10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.kind("30")
@pytest.mark.parametrize("forced", [False, True])
def test_a_bar_is_shown_in_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], forced: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(module, "Console", partial(Console, force_terminal=forced))
    report, clock = make_report(), Clock()
    report._clock = clock
    _run(report, clock)
    shown = capsys.readouterr().out
    if forced:
        assert "\x1b[" in shown
        assert "images/s" in shown
        assert "left" not in shown
    else:
        assert shown.splitlines()[1].endswith("train loss 0.25  evaluation accuracy 0.875  50 images/s  0:02 left")


@pytest.mark.kind("30")
def test_the_time_left_counts_the_steps_of_this_start() -> None:
    """Those done before a resume took no time of it."""
    clock = Clock()
    meters = [Meter(total=50, done=done, clock=clock) for done in (0, 30)]
    clock.now += 10
    assert [meter.left(40) for meter in meters] == ["0:02", "0:10"]
    assert [meter.rate for meter in meters] == [0, 0]


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0, "0:00"), (9, "0:09"), (60, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (7325, "2:02:05")],
)
def test_the_time_left_in_words(seconds: int, wanted: str) -> None:
    clock = Clock()
    meter = Meter(total=2, done=0, clock=clock)
    clock.now += seconds
    assert meter.left(1) == wanted


@pytest.mark.kind("30")
def test_half_a_minute_begins_anew_with_what_was_measured() -> None:
    out, clock = io.StringIO(), Clock()
    report = LineReport(Console(file=out, width=200), clock)
    clock.now += 40
    report.start(total=4, done=0, steps_per_epoch=2)
    clock.now += 20
    assert not report.due(1)
    report.metrics(2, {"train_loss": 0.25})
    clock.now += 20
    assert not report.due(1)
    clock.now += 10
    assert report.due(1)
    assert not report.due(1)


@pytest.mark.kind("30")
@pytest.mark.parametrize(("done", "epoch"), [(0, "1/3"), (1, "1/3"), (4, "1/3"), (5, "2/3"), (9, "3/3")])
def test_a_bar_begins_where_the_run_goes_on(done: int, epoch: str) -> None:
    report = ProgressReport(Console(file=io.StringIO(), width=80, force_terminal=True), Clock())
    report.start(total=10, done=done, steps_per_epoch=4)
    (task,) = report._progress.tasks
    assert (task.completed, task.total, task.description) == (done, 10, f"epoch {epoch}")
    report.step(10, {"loss": 0.123456})
    assert task.fields["values"].startswith("loss 0.123  ")
    report.close()
