"""The targets that must reach the loss, composed in float64 from the printed draws and each method's formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import counterpoint as cp
from counterpoint.core.member import Member
from counterpoint.core.run import Dice
from tests.algorithms.cases import Array, Pair, naive_cutmix, naive_mixup, naive_smoothing
from tests.laws.strategy import CLASSES, Composition

Reference = Callable[[Array, Array, dict[str, Any], str], Pair]
SELECTING = frozenset({"selective_backprop"})
"""Methods whose choice of samples needs the model, so that draws alone do not tell the targets."""


def kept(inputs: Array, targets: Array, draws: dict[str, Any], task: str) -> Pair:
    """Leave the batch as it is: what a method that edits no targets does to them."""
    return inputs, targets


def reference_of(algorithm: cp.Algorithm[Any]) -> Reference:
    """Return what a method does to targets."""
    settings = dict(algorithm)
    if algorithm.name in ("mixup", "manifold_mixup"):
        return kept if settings["alpha"] == 0 else naive_mixup
    if algorithm.name == "cutmix":
        return kept if settings["alpha"] == 0 else naive_cutmix
    if algorithm.name == "label_smoothing":
        return naive_smoothing(settings["smoothing"])
    if algorithm.name == "cutout" and settings.get("masks") == "ignore":
        return ignoring
    return kept


def ignoring(inputs: Array, targets: Array, draws: dict[str, Any], task: str) -> Pair:
    """Zero the rows inside the holes."""
    boxes, y = draws[""].tolist(), targets.copy()
    for i in range(len(y)):
        for left, top, right, bottom in boxes[i if len(boxes) > 1 else 0]:
            y[i, :, top:bottom, left:right] = 0
    return inputs, y


def expected_targets(plan: cp.Plan, case: Composition, step: int) -> Array | None:
    """Return the targets that the plan must make of a batch; ``None`` where draws alone do not tell."""
    if any(leaf.algorithm.name in SELECTING for member in plan.members for leaf in member.leaves):
        return None
    dice = Dice(plan.facts.seed, step, 0)
    spec = cp.BatchSpec(case.size, tuple(case.inputs(step).shape[1:]), CLASSES)
    draws = plan.draws(step, spec)
    inputs, targets = case.inputs(step).double().numpy(), as_rows(case, step)
    for planned in plan.steps:
        work = planned.work
        while isinstance(work, Member) and work.branches and dice.acts(work):
            chosen = draws[work.identity]
            work = next(branch for branch in work.branches if branch.identity == chosen)
        if isinstance(work, Member) and not work.branches and dice.acts(work):
            reference = reference_of(work.algorithm)
            inputs, targets = reference(inputs, targets, {"": draws.get(work.identity)}, case.facts["task"])
    return targets


def as_rows(case: Composition, step: int) -> Array:
    """Return the targets that the data holds as float64 rows; ignored positions are zero."""
    given = case.targets(step)
    if given.is_floating_point():
        rows: Array = given.double().numpy()
        return rows
    counted = given != -100
    one_hot = torch.nn.functional.one_hot(given.clamp(min=0), CLASSES).movedim(-1, 1)
    return np.asarray((one_hot * counted.unsqueeze(1)).double().numpy())
