"""Run tests on a changed copy of the project, in a fork of this process: torch is imported once for all mutants."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

OPTIONS = ["-q", "-x", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
OPTIONS += ["-m", "not long", "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are imported before the fork
NOTHING = "nothing"
IMPORT = "the import"
TIME = "the time limit"


class _First:
    """A plugin of pytest that runs the tests asked for, in their order, and keeps the first that fails."""

    def __init__(self, tests: list[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}
        self.failed = NOTHING

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (item for item in items if item.nodeid in self.places), key=lambda item: self.places[item.nodeid]
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self.failed == NOTHING:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and self.failed == NOTHING:
            self.failed = IMPORT


def noticed_by(tree: Path, tests: list[str], limit: float) -> str:
    """Return the first test that fails on a tree; or NOTHING, IMPORT, or TIME after ``limit`` seconds."""
    first: str = forked(lambda: _run(tests), tree, limit)
    return first


def forked(work: Callable[[], str], tree: Path, limit: float) -> str:
    """Return what ``work`` returns in a process of its own, whose imports come from ``tree``."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, tree, theirs))
    child.start()
    theirs.close()
    ended = time.monotonic() + limit
    result = TIME
    try:
        if ours.poll(max(0.0, ended - time.monotonic())):
            result = ours.recv()
    except EOFError:
        result = "a crash"
    if child.pid is not None:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            child.kill()
    child.join()
    return result


def _child(work: Callable[[], str], tree: Path, results: Connection) -> None:
    os.setsid()
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"tests", "counterpoint"}]:
        del sys.modules[name]  # the tree has its own
    with open(tree.parent / "child.log", "w") as log, redirect_stdout(log), redirect_stderr(log):
        results.send(work())


def _run(tests: list[str]) -> str:
    sys.dont_write_bytecode = True  # what the tree has of the unchanged files is read, and stays
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    first = _First(tests)
    code = pytest.main([*OPTIONS, *dict.fromkeys(test.partition("::")[0] for test in tests)], plugins=[first])
    return first.failed if first.failed != NOTHING or code == 0 else f"exit code {int(code)}"
