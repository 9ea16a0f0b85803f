"""One batch of a plan with one method: how many calls of Counterpoint's functions it takes, in how many files."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import counterpoint as cp
from counterpoint.cli.cards import example_components

ROOT = str(Path(cp.__file__).parent)
MOST_CALLS, MOST_FILES = 40, 6


def calls_of(plan: cp.Plan, step: int) -> list[str]:
    """Return the file of every call of Counterpoint's own functions that one batch takes."""
    inputs, targets = torch.rand(8, 3, 32, 32), torch.arange(8) % 5
    files: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            files.append(frame.f_code.co_filename.removeprefix(ROOT))

    sys.setprofile(note)
    try:
        plan(inputs, targets, step=step)
    finally:
        sys.setprofile(None)
    return files


def steady(component: dict[str, Any], inputs: str) -> list[str]:
    """Return the files of the calls for a batch behind those that are checked; none for a plan that needs an engine."""
    plan = cp.compose([component], loss="cross_entropy", task="multiclass", num_classes=5, seed=17, inputs=inputs)
    if plan.hooks or any(effect.sample_losses for step in plan.steps for effect in step.effects):
        return []
    for step in range(4):
        calls_of(plan, step)
    return calls_of(plan, 10)


def test_one_batch_of_mixup_is_few_calls_in_few_files() -> None:
    files = steady({"name": "mixup"}, "image")
    assert len(files) <= MOST_CALLS
    assert len(set(files)) <= MOST_FILES


@pytest.mark.parametrize("name", sorted(example_components().keys() - {"one_of"}))
def test_the_core_has_a_small_share_in_one_batch_of_a_method(name: str) -> None:
    files = [file for file in steady(example_components()[name], "unit") if file.startswith("/core")]
    assert len(files) <= MOST_CALLS
    assert len(set(files)) <= MOST_FILES + 1  # what several methods use of the core: memory, and conditions of a choice
