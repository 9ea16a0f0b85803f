"""The entry point: from what a command raises to a message and an exit code."""

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
_USERS_FAULT = (CompositionError, ConfigError, PluginError, RunDirectoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    ``arguments`` are those after the program's name, by default those of this process. The code is 0 when all is
    right, 1 for a run that failed, 2 for a fault in what the user wrote, 130 after an interrupt from the keyboard and
    143 after a SIGTERM. An error that Counterpoint raises on purpose is one message on stderr.

    >>> main(["show", "mixpu"])
    2
    """
    with _ending_on_sigterm():
        try:
            app(args=None if arguments is None else list(arguments), prog_name="counterpoint")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else FAILED
        except CounterpointError as error:
            sys.stderr.write(f"error: {error}\n")
            return WRONG if isinstance(error, _USERS_FAULT) else FAILED
    return 0


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """End by ``SystemExit`` on SIGTERM, so that everything open is closed as after any other end."""
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
