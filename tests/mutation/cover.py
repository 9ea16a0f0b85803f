"""Which tests run which lines, and how long each test takes."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import coverage
import pytest


@dataclass
class Cover:
    """``lines[file][line]`` are the tests that run a line, as places in ``tests``; ``seconds`` go with ``tests``."""

    tests: list[str]
    seconds: list[float]
    lines: dict[str, dict[str, list[int]]]

    def tests_of(self, file: str, line: int, imported: bool) -> list[str]:
        """Return the tests to run for a change, quickest first: all of the file's where a line runs at import."""
        lines = self.lines.get(file, {})
        found = set(lines.get(str(line), ()))
        if imported or not found:
            found = {test for tests in lines.values() for test in tests}
        return [self.tests[test] for test in sorted(found, key=lambda test: (self.seconds[test], test))]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Cover:
        """Read what ``save`` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class _Contexts:
    """A plugin of pytest that tells coverage which test runs, and takes the time."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured, self.seconds = measured, dict[str, float]()
        self.failed: list[str] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        started = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = round(time.perf_counter() - started, 3)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def measure(tree: Path, files: list[str], tests: list[str], options: list[str]) -> Cover:
    """Run tests on a tree, in this process, and return what covers what; tests that fail are left out and printed."""
    measured = coverage.Coverage(data_file=None, include=[str(tree / file) for file in files], config_file=False)
    contexts = _Contexts(measured)
    measured.start()
    pytest.main([*options, *tests], plugins=[contexts])
    measured.stop()
    for name in contexts.failed:
        print(f"fails without a change, left out: {name}", flush=True)
        contexts.seconds.pop(name, None)
    places = {name: place for place, name in enumerate(contexts.seconds)}
    data, lines = measured.get_data(), defaultdict[str, dict[str, list[int]]](dict)
    for file in files:
        for line, names in data.contexts_by_lineno(str(tree / file)).items():
            lines[file][str(line)] = [places[name] for name in names if name in places]
    return Cover(list(contexts.seconds), list(contexts.seconds.values()), dict(lines))
