"""Signals in the worker processes of a DataLoader."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading

__all__ = ["leave_signals_to_parent"]


def leave_signals_to_parent(worker: int) -> None:
    """Ignore signals in a process that loads data, until its parent ends it.

    Ctrl-C and cluster managers signal whole groups of processes. The parent still needs its next batch. When it is
    done, it ends its loaders by its own SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # only there a process learns who has sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, daemon=True).start()


def _end_when_parent_says() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and sys.platform == "linux":
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent.pid:
            os._exit(0)
