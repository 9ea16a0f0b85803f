"""Settings that every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Restore the environment after each test: loops that start processes leave addresses, ranks and groups in it."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--kind``, which runs the tests that hold one kind of fault."""
    parser.addoption("--kind", action="append", default=[], help="run the tests marked kind(NUMBER) alone; repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark long tests as slow, and deselect the tests that hold none of the kinds asked for."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker("slow")
    wanted = set(config.getoption("--kind"))
    if not wanted:
        return
    kept, left = [], []
    for item in items:
        (kept if wanted & {mark.args[0] for mark in item.iter_markers("kind")} else left).append(item)
    config.hook.pytest_deselected(items=left)
    items[:] = kept
