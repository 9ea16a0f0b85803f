"""The entry point: turns an error of a command into a message and an exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from counterpoint.cli.app import app
from counterpoint.core.errors import (
    CompositionError,
    ConfigError,
    CounterpointError,
    PluginError,
    RunDirectoryError,
)

__all__ = ["main"]

FAILED, WRONG = 1, 2
_SIGNALLED = 128
_USERS_FAULT = (CompositionError, ConfigError, PluginError, RunDirectoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    ``arguments`` are those after the program's name, by default those of this process. The code is 0 when all is
    right, 1 for a run that failed, 2 for a fault in what the user wrote, 130 after an interrupt from the keyboard and
    143 after a SIGTERM. An error that Counterpoint raises on purpose is one message on stderr.

    >>> main(["show", "mixpu"])
    2
    """
    with _listening() as received:
        try:
            app(args=None if arguments is None else list(arguments), prog_name="counterpoint")
        except BaseException as end:
            if received:  # whatever others have made of the exception that the signal raised
                return _SIGNALLED + received[0]
            if isinstance(end, SystemExit):
                return end.code if isinstance(end.code, int) else FAILED
            if not isinstance(end, CounterpointError):
                raise
            sys.stderr.write(f"error: {end}\n")
            return WRONG if isinstance(end, _USERS_FAULT) else FAILED
    return 0


@contextmanager
def _listening() -> Iterator[list[int]]:
    """Raise an exception on SIGINT and SIGTERM, to close everything that is open; yields the signals received."""
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(_SIGNALLED + number)

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
