"""Run the code of packages without output to standard output and without a silent exit."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn

__all__ = ["ProcessExit", "exits_refused", "guarded"]


class ProcessExit(BaseException):
    """The code of a package called ``os._exit``, which would have ended the process silently."""


@contextmanager
def guarded() -> Iterator[None]:
    """Run the code of a package: what it prints goes to stderr, and ``os._exit`` raises ``ProcessExit``.

    Standard output is redirected by its file descriptor too: it is only for the output of the command.
    """
    with exits_refused(), _descriptor_redirected(), redirect_stdout(sys.stderr):
        yield


@contextmanager
def exits_refused() -> Iterator[None]:
    """Let ``os._exit`` raise ``ProcessExit``; child processes and other threads end as they always do."""
    exit_process, process, thread = os._exit, os.getpid(), threading.get_ident()

    def refuse(status: int) -> NoReturn:
        if (os.getpid(), threading.get_ident()) == (process, thread):
            raise ProcessExit(f"it calls os._exit({status}), which ends the process silently")
        exit_process(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = exit_process


@contextmanager
def _descriptor_redirected() -> Iterator[None]:
    """Send what is written to file descriptor 1, such as by child processes, to that of stderr."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # a process without standard output or stderr
        yield
        return
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None:
                stream.flush()
        os.dup2(kept, 1)
        os.close(kept)
