"""Ending a run between two batches, when Ctrl-C or SIGTERM asks for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Stop", "Stopped", "signals_held"]

_SECONDS_OF_ONE_KEYPRESS = 1.0
_NOTICE = b"\nCtrl-C: ending after this batch, with a checkpoint; once more ends at once\n"


class Stopped(Exception):
    """Leaves a loop that was asked to stop."""


class Stop:
    """Whether a signal has asked this process to end, and which: ``received`` is its number."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._noted = 0.0

    @property
    def name(self) -> str:
        """What asked for the end, in words."""
        return "another process" if self.received is None else signal.Signals(self.received).name

    def asked(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to end; with several, all must call this at the same step."""
        if accelerator.num_processes == 1:
            return self.received is not None
        asked = torch.tensor(float(self.received is not None), device=accelerator.device)
        return bool(accelerator.reduce(asked) > 0)

    def take_over(self) -> None:
        """Begin to note signals, where Python allows it: in the main thread, unless others ignore or handle them."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._note)

    def give_back(self) -> None:
        """Put the handlers back that were there."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Record the first signal; a later Ctrl-C has its usual effect.

        Launchers forward signals that the terminal has already sent to their processes. A repeated signal within a
        moment is therefore ignored.
        """
        now = time.monotonic()
        if self.received is None:
            self.received, self._noted = number, now
            if number == signal.SIGINT and sys.__stderr__ is not None:
                os.write(2, _NOTICE)  # a handler must not print, which it may have interrupted
        elif number == signal.SIGINT and now - self._noted > _SECONDS_OF_ONE_KEYPRESS:
            self.give_back()
            signal.raise_signal(number)


@contextmanager
def signals_held() -> Iterator[Stop]:
    """Defer SIGINT and SIGTERM during a run, which checks regularly whether one has arrived.

    At the end of the span a signal does what it would have done: raise ``KeyboardInterrupt``, end the process, or call
    the program's own handler. In threads, where Python has no handlers, and for signals that the program ignores,
    nothing changes.
    """
    stop = Stop()
    stop.take_over()
    try:
        yield stop
    finally:
        stop.give_back()
    if stop.received is not None:
        signal.raise_signal(stop.received)
