"""The batch that must reach the model and the loss, composed in float64 from the printed draws and formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import counterpoint as cp
from counterpoint import Field
from counterpoint.core.run.dice import Dice
from tests.algorithms.cases import Array, Pair, naive_cutmix, naive_mixup, naive_normalizing, naive_smoothing
from tests.laws.case import CLASSES, Composition

Reference = Callable[[Array, Array, dict[str, Any], str], Pair]


def kept(inputs: Array, targets: Array, draws: dict[str, Any], task: str) -> Pair:
    """Leave the batch as it is."""
    return inputs, targets


def mixed_targets(inputs: Array, targets: Array, draws: dict[str, Any], task: str) -> Pair:
    """Mix targets alone: the inputs are mixed inside the model."""
    return inputs, naive_mixup(targets, targets, draws, task)[1]


def holes(fill: float, *, ignore: bool) -> Reference:
    """Fill the holes, and zero the rows inside them where these are to be ignored."""

    def reference(inputs: Array, targets: Array, draws: dict[str, Any], task: str) -> Pair:
        boxes, x, y = draws[""].tolist(), inputs.copy(), targets.copy()
        for i in range(len(x)):
            for left, top, right, bottom in boxes[i if len(boxes) > 1 else 0]:
                x[i, :, top:bottom, left:right] = fill
                if ignore:
                    y[i, :, top:bottom, left:right] = 0
        return x, y

    return reference


def reference_of(algorithm: cp.Algorithm[Any], white: int, losses: Array) -> Reference | None:
    """Return what a method does to a batch; ``None`` for one whose edit of the inputs has no formula here."""
    settings = dict(algorithm)
    mixers = {"mixup": naive_mixup, "manifold_mixup": mixed_targets, "cutmix": naive_cutmix}
    if algorithm.name in mixers:
        return mixers[algorithm.name] if settings["alpha"] else kept
    if algorithm.name == "label_smoothing":
        return naive_smoothing(settings["smoothing"])
    if algorithm.name == "cutout":
        return holes(settings["fill"], ignore=settings["masks"] == "ignore")
    if algorithm.name == "normalize":
        return naive_normalizing(settings["mean"], settings["std"], white)
    if algorithm.name == "selective_backprop":
        return selecting(settings, losses)
    edited = {part for effect in algorithm.declared().transforms for part in effect.edits}
    assert Field.TARGETS not in edited, f"say here by what formula {algorithm.name} edits targets"
    return None if edited else kept


def selecting(settings: dict[str, Any], losses: Array) -> Reference:
    """Keep the samples with the highest ``u ** (1 / percentile ** beta)``, or with the highest losses."""

    def reference(inputs: Array, targets: Array, draws: dict[str, Any], task: str) -> Pair:
        size = len(inputs)
        keep = max(1, round(settings["keep"] * size))
        ranks = {int(sample): rank for rank, sample in enumerate(np.argsort(losses[:size], kind="stable"))}
        if settings["selection"] == "top":
            order = sorted(range(size), key=lambda sample: -ranks[sample])
        else:
            beta = 1 / settings["keep"] - 1 if settings["beta"] is None else settings["beta"]
            keys = draws[""].double().tolist()
            # The highest u ** (1 / w) has the lowest log(-log(u)) - log(w), which does not underflow.
            order = sorted(range(size), key=lambda i: np.log(-np.log(keys[i])) - beta * np.log((ranks[i] + 0.5) / size))
        chosen = sorted(order[:keep])
        return inputs[chosen], targets[chosen]

    return reference


def expected_batch(plan: cp.Plan, case: Composition, step: int) -> tuple[Array | None, Array]:
    """Return the inputs and targets that the plan must make of a batch; inputs ``None`` where no formula is here."""
    dice = Dice(plan.facts.seed, step, 0)
    spec = cp.BatchSpec(case.size, tuple(case.inputs(step).shape[1:]), CLASSES)
    draws = plan.draws(step, spec)
    inputs, targets = case.inputs(step).double().numpy(), as_rows(case, step)
    white, known = 255 if case.facts["inputs"] == "bytes" else 1, True
    for planned in plan.steps:
        work = planned.work
        while work.branches and dice.acts(work):
            chosen = draws[work.identity]
            work = next(branch for branch in work.branches if branch.identity == chosen)
        if planned.inserted or work.branches or not dice.acts(work):
            continue
        reference = reference_of(work.algorithm, white, case.losses(step).double().numpy())
        known = known and reference is not None
        inputs, targets = (reference or kept)(inputs, targets, {"": draws.get(work.identity)}, case.facts["task"])
        if len(targets) != spec.size:  # the draws of those who come later are for the samples that are left
            spec = replace(spec, size=len(targets))
            draws = plan.draws(step, spec)
    return (inputs if known else None), targets


def as_rows(case: Composition, step: int) -> Array:
    """Return the targets that the data holds as float64 rows; ignored positions are zero."""
    given = case.targets(step)
    if given.is_floating_point():
        rows: Array = given.double().numpy()
        return rows
    counted = given != case.ignore_index
    one_hot = torch.nn.functional.one_hot(given.where(counted, 0), CLASSES).movedim(-1, 1)
    return np.asarray((one_hot * counted.unsqueeze(1)).double().numpy())
