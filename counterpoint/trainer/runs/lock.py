"""A lock on a folder that ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from counterpoint.core.errors import RunDirectoryError

if sys.platform != "win32":
    import fcntl

__all__ = ["locked"]

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and let no other process in while this one is; raises ``RunDirectoryError`` if one is in.

    The lock is a record lock on ``.lock``. It always ends with this process, is not inherited by processes that this
    one starts, such as those that load data, and works on network file systems. On systems without record locks, and
    file systems that refuse them, nothing is locked.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOCK
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise RunDirectoryError(
            f"run_dir: {str(folder)!r} cannot be written: {error.strerror} ({error.filename}); make it "
            "writable, move it away, or choose another run_dir"
        ) from error
    with file:
        if not _take(file) or not _is_there(path, file):
            file.seek(0)
            raise RunDirectoryError(
                f"run_dir: {str(folder)!r} is in use by another process ({file.read() or 'just started'}); end it, "
                "wait for it, or choose another run_dir"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # while it is held: no other process can have locked this file


def _take(file: IO[str]) -> bool:
    """Lock a file, if no other process has."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _is_there(path: Path, file: IO[str]) -> bool:
    """Whether a file is still the one of its name; a process that ends deletes it."""
    return path.exists() and os.path.samestat(path.stat(), os.stat(file.fileno()))
