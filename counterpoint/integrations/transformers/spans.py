"""Spans of the engine in a loop that begins them in one call and ends them in another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

__all__ = ["Spans"]

_T = TypeVar("_T")


class Spans:
    """Spans that begin and end in different calls of another loop, innermost last."""

    def __init__(self) -> None:
        self._open: list[AbstractContextManager[Any]] = []

    def begin(self, span: AbstractContextManager[_T]) -> _T:
        """Enter a span inside those that are open."""
        value = span.__enter__()
        self._open.append(span)
        return value

    def end(self, count: int = 1) -> None:
        """Leave the innermost spans, which ended well."""
        for _ in range(count):
            self._open.pop().__exit__(None, None, None)

    @contextmanager
    def unwound(self) -> Iterator[None]:
        """Leave the spans that are still open when the context ends, with its error if there is one."""
        with ExitStack() as spans:
            try:
                yield
            finally:
                for span in self._open:
                    spans.push(span)
                self._open.clear()
