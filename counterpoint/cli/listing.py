"""Everything registered, as lines of a table; nothing is imported unless it is to be checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from counterpoint.plugins import Entry, check, entries

__all__ = ["checked", "listed"]

_HEAD = ("kind", "name", "package", "version")


def listed() -> list[str]:
    """Return one line for each registered thing: its kind, name, package and version."""
    return _table([_HEAD, *map(_row, entries())])


def checked() -> tuple[list[str], int]:
    """Import everything registered; return the lines, each with its state, and how many are broken."""
    found = [(entry, check(entry)) for entry in entries()]
    rows = [(*_row(entry), "ok" if error is None else f"broken: {error}") for entry, error in found]
    return _table([(*_HEAD, "state"), *rows]), sum(error is not None for _, error in found)


def _row(entry: Entry) -> tuple[str, str, str, str]:
    return entry.group.rpartition(".")[2], entry.name, entry.package, entry.version


def _table(rows: Sequence[Iterable[str]]) -> list[str]:
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
