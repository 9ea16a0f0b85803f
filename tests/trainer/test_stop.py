"""What each signal does to a run, one after another, without a run."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from counterpoint.trainer.loop.signals import Stop

pytestmark = pytest.mark.kind("30")


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Put the handlers of signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_ctrl_c_alone_is_answered(number: int, told: int, capfd: pytest.CaptureFixture[str]) -> None:
    stop = Stop()
    assert stop.name == "another process"
    stop._note(number, None)
    assert (stop.received, stop.name) == (number, signal.Signals(number).name)
    assert capfd.readouterr().err.count("Ctrl-C: ending after this batch") == told


@pytest.mark.parametrize(
    ("first", "second", "seconds", "ends"),
    [
        (signal.SIGINT, signal.SIGINT, 0.9, False),
        (signal.SIGINT, signal.SIGINT, 1.1, True),
        (signal.SIGTERM, signal.SIGINT, 1.1, True),
        (signal.SIGINT, signal.SIGTERM, 1.1, False),
        (signal.SIGTERM, signal.SIGTERM, 1.1, False),
    ],
)
def test_a_second_signal(monkeypatch: pytest.MonkeyPatch, first: int, second: int, seconds: float, ends: bool) -> None:
    """Ctrl-C after a second does what it would have done; any other leaves the first as it was."""
    now, raised = [50.0], list[int]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(signal, "raise_signal", raised.append)
    stop = Stop()
    stop._note(first, None)
    now[0] += seconds
    stop._note(second, None)
    assert stop.received == first
    assert raised == ([second] if ends else [])


def test_handlers_are_put_back_once() -> None:
    """A handler that the program sets after a run stays."""

    def first(number: int, frame: object) -> None: ...

    def second(number: int, frame: object) -> None: ...

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, first)
    stop = Stop()
    stop.take_over()
    assert {signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} == {stop._note}
    stop.give_back()
    assert {signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} == {first}
    signal.signal(signal.SIGINT, second)
    stop.give_back()
    assert signal.getsignal(signal.SIGINT) is second
