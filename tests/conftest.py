"""Settings that every test shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Put the environment back after each test: loops that start processes leave addresses and ranks in it."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
