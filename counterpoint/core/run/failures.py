"""Errors in the code of a method, a model or a data set: what ran, when, and where the error was raised."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

import torch

from counterpoint.core.errors import CounterpointError, MethodError

__all__ = ["MethodCode", "describe_error", "raise_named"]

_TORCH, _HERE = str(Path(torch.__file__).parent), str(Path(__file__).parents[2])


def describe_error(error: BaseException) -> str:
    """Return the type of an error, its message, and the line that raised it: outside torch and Counterpoint, if any.

    >>> describe_error(ValueError("no such sign"))
    'ValueError: no such sign'
    """
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_TORCH)]
    foreign = [frame for frame in frames if not frame.filename.startswith(_HERE)]
    shown = (foreign or frames)[-1:]
    return " ".join([text, *(f"({frame.filename}, line {frame.lineno})" for frame in shown)])


class MethodCode:
    """Raises ``MethodError``, with the name of the method and the step, for an error of the code that runs in it.

    Errors that Counterpoint raises on purpose pass, and so do a lack of memory and a lost connection between processes.
    ``step`` is the number of the device batch, ``None`` between two of them.

    >>> with MethodCode("zoom.apply", 3):
    ...     [].pop()
    Traceback (most recent call last):
        ...
    counterpoint.core.errors.MethodError: zoom.apply failed at step 3: IndexError: pop from empty list (...)
    """

    __slots__ = ("_name", "_step")

    def __init__(self, name: str, step: int | None) -> None:
        self._name, self._step = name, step

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            raise_named(error, self._name, self._step)


def raise_named(error: Exception, name: str, step: int | None) -> None:
    """Raise ``MethodError`` for an error of a method's code; return for an error that passes as it is."""
    if not _is_of_others(error):
        when = "" if step is None else f" at step {step}"
        raise MethodError(f"{name} failed{when}: {describe_error(error)}") from error


def _is_of_others(error: Exception) -> bool:
    if isinstance(error, CounterpointError | torch.OutOfMemoryError):
        return True
    return isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)
