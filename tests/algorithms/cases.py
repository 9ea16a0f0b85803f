"""What every built-in method must do, written from the papers' formulas in float64 loops, not from its code.

``CASES`` holds at least one case for each registered name; ``test_cases.py`` fails where one is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterpoint.algorithms import (
    EMA,
    SAM,
    SWA,
    BlurPool,
    CutMix,
    CutOut,
    GradientClipping,
    LabelSmoothing,
    ManifoldMixup,
    MixUp,
    Normalize,
    OneOf,
    SelectiveBackprop,
    TrivialAugment,
)
from counterpoint.core import Algorithm
from tests.algorithms.naive_images import NAIVE

Array = NDArray[np.float64]
Pair = tuple[Array, Array]
Draws = Mapping[str, Any]
Gradient = Callable[[Mapping[str, Array]], dict[str, Array]]
ALL_TASKS = ("multiclass", "segmentation", "multilabel", "regression")
FLOATING = ("image", "unit", "normalized")
IMAGES = (*FLOATING, "bytes")
IMAGE_TASKS = ("multiclass", "multilabel", "regression")
CLASS_TASKS = ("multiclass", "segmentation", "multilabel")


@dataclass(frozen=True)
class EditCase:
    """A method that edits batches.

    ``reference(inputs, targets, draws, task)`` takes float64 arrays, inputs (N, C, H, W) and targets dense, with the
    draws of the method by name, its own under ``""``. ``dense`` says whether it needs dense targets, ``tasks`` the
    tasks it has a meaning for, ``inputs`` the kinds of input. ``gives`` says that it makes another kind of inputs, in
    float32 at least, and so acts on every batch.
    """

    algorithm: Algorithm[Any]
    reference: Callable[[Array, Array, Draws, str], Pair]
    tasks: tuple[str, ...] = ALL_TASKS
    inputs: tuple[str, ...] = FLOATING
    dense: bool = True
    gives: bool = False


@dataclass(frozen=True)
class WeightsCase:
    """A method that changes what is evaluated.

    ``reference(start, trained)`` takes the values of the model at the start and after each step on which the method
    acts, and returns those that an evaluation must see.
    """

    algorithm: Algorithm[Any]
    reference: Callable[[Mapping[str, Array], Sequence[Mapping[str, Array]]], Mapping[str, Array]]
    tasks: tuple[str, ...] = ALL_TASKS


@dataclass(frozen=True)
class StepCase:
    """A method that changes the gradient which the optimizer uses.

    ``reference(gradient, weights)`` takes a function from weights to the gradient of the batch's loss there, and the
    weights before the step, all float64 by name, and returns the gradient that the optimizer must use.
    """

    algorithm: Algorithm[Any]
    reference: Callable[[Gradient, Mapping[str, Array]], Mapping[str, Array]]
    tasks: tuple[str, ...] = ALL_TASKS


@dataclass(frozen=True)
class OwnCase:
    """A method whose reference needs more than a batch or weights: test_NAME.py holds it."""

    algorithm: Algorithm[Any]
    tasks: tuple[str, ...] = ALL_TASKS


Case = EditCase | WeightsCase | StepCase | OwnCase


def naive_mixup(inputs: Array, targets: Array, draws: Draws, task: str) -> Pair:
    lam, partners = float(draws[""].lam), draws[""].perm.tolist()
    x, y = np.empty_like(inputs), np.empty_like(targets)
    for i, j in enumerate(partners):
        x[i] = lam * inputs[i] + (1 - lam) * inputs[j]
        y[i] = lam * targets[i] + (1 - lam) * targets[j]
    return x, y


def naive_cutmix(inputs: Array, targets: Array, draws: Draws, task: str) -> Pair:
    boxes, partners = draws[""].boxes.tolist(), draws[""].perm.tolist()
    height, width = inputs.shape[2:]
    x, y = inputs.copy(), targets.copy()
    for i, j in enumerate(partners):
        left, top, right, bottom = boxes[i if len(boxes) > 1 else 0]
        pasted = 0
        for row in range(height):
            for column in range(width):
                if left <= column < right and top <= row < bottom:
                    pasted += 1
                    x[i, :, row, column] = inputs[j, :, row, column]
                    if task == "segmentation":
                        y[i, :, row, column] = targets[j, :, row, column]
        if task != "segmentation":
            kept = (height * width - pasted) / (height * width)
            y[i] = kept * targets[i] + (1 - kept) * targets[j]
    return x, y


def naive_cutout(fill: float) -> Callable[[Array, Array, Draws, str], Pair]:
    def reference(inputs: Array, targets: Array, draws: Draws, task: str) -> Pair:
        boxes = draws[""].tolist()
        x = inputs.copy()
        for i in range(len(x)):
            for left, top, right, bottom in boxes[i if len(boxes) > 1 else 0]:
                for row in range(top, bottom):
                    for column in range(left, right):
                        x[i, :, row, column] = fill
        return x, targets

    return reference


def naive_smoothing(smoothing: float) -> Callable[[Array, Array, Draws, str], Pair]:
    def reference(inputs: Array, targets: Array, draws: Draws, task: str) -> Pair:
        if task == "multilabel":
            return inputs, np.array([[(1 - smoothing) * label + smoothing / 2 for label in row] for row in targets])
        rows = np.moveaxis(targets, 1, -1)
        smooth = np.empty_like(rows)
        for place in np.ndindex(*rows.shape[:-1]):
            mass = sum(float(share) for share in rows[place])
            for label in range(rows.shape[-1]):
                smooth[(*place, label)] = (1 - smoothing) * rows[(*place, label)] + smoothing / rows.shape[-1] * mass
        return inputs, np.moveaxis(smooth, -1, 1)

    return reference


def naive_normalizing(
    mean: Sequence[float], std: Sequence[float], white: int
) -> Callable[[Array, Array, Draws, str], Pair]:
    def reference(inputs: Array, targets: Array, draws: Draws, task: str) -> Pair:
        x = np.empty_like(inputs)
        for i, channel, row, column in np.ndindex(*x.shape):
            own_mean, own_std = mean[channel % len(mean)], std[channel % len(std)]
            x[i, channel, row, column] = (inputs[i, channel, row, column] / white - own_mean) / own_std
        return x, targets

    return reference


def naive_augmenting(white: int) -> Callable[[Array, Array, Draws, str], Pair]:
    def reference(inputs: Array, targets: Array, draws: Draws, task: str) -> Pair:
        x, seen = inputs.copy(), []
        for operation, samples in draws[""].samples.items():
            for place, i in enumerate(samples.tolist()):
                x[i] = NAIVE[operation](inputs[i], float(draws[""].magnitudes[operation][place]), white)
                seen.append(i)
        assert sorted(seen) == list(range(len(x)))
        return x, targets

    return reference


def naive_choice(
    **branches: Callable[[Array, Array, Draws, str], Pair],
) -> Callable[[Array, Array, Draws, str], Pair]:
    def reference(inputs: Array, targets: Array, draws: Draws, task: str) -> Pair:
        chosen = draws[""]
        branch = chosen.rpartition(".")[2]
        return branches[branch](inputs, targets, {"": draws[chosen]}, task)

    return reference


def naive_average(
    decay: float, *, warmup: bool
) -> Callable[[Mapping[str, Array], Sequence[Mapping[str, Array]]], Mapping[str, Array]]:
    def reference(start: Mapping[str, Array], trained: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
        average = dict(trained[0])
        for t, values in enumerate(trained[1:], start=1):
            d = min(decay, (1 + t) / (10 + t)) if warmup else decay
            for name, value in values.items():
                counts = value.dtype.kind == "i"
                average[name] = value if counts else d * average[name] + (1 - d) * value
        return average

    return reference


def naive_mean(start: Mapping[str, Array], trained: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    last = trained[-1]
    return {
        name: last[name] if last[name].dtype.kind == "i" else sum(values[name] for values in trained) / len(trained)
        for name in start
    }


def length(tensors: Mapping[str, Array]) -> float:
    return math.sqrt(sum(float(value) ** 2 for tensor in tensors.values() for value in tensor.flat))


def naive_sam(rho: float, *, adaptive: bool = False) -> Callable[[Gradient, Mapping[str, Array]], Mapping[str, Array]]:
    def reference(gradient: Gradient, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        first = gradient(weights)
        scale = {name: np.abs(weights[name]) if adaptive else np.ones_like(weights[name]) for name in weights}
        norm = length({name: scale[name] * first[name] for name in weights})
        return gradient({name: weights[name] + rho * scale[name] ** 2 * first[name] / norm for name in weights})

    return reference


def naive_norm_clipping(threshold: float) -> Callable[[Gradient, Mapping[str, Array]], Mapping[str, Array]]:
    def reference(gradient: Gradient, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        whole = gradient(weights)
        factor = min(1.0, threshold / (length(whole) + 1e-6))
        return {name: factor * part for name, part in whole.items()}

    return reference


def naive_value_clipping(threshold: float) -> Callable[[Gradient, Mapping[str, Array]], Mapping[str, Array]]:
    def reference(gradient: Gradient, weights: Mapping[str, Array]) -> Mapping[str, Array]:
        clipped = {name: part.copy() for name, part in gradient(weights).items()}
        for part in clipped.values():
            for place in np.ndindex(*part.shape):
                part[place] = min(max(part[place], -threshold), threshold)
        return clipped

    return reference


CASES: dict[str, tuple[Case, ...]] = {
    "blurpool": (OwnCase(BlurPool()),),
    "selective_backprop": (OwnCase(SelectiveBackprop()),),
    "manifold_mixup": (OwnCase(ManifoldMixup(module="0")),),
    "mixup": (
        EditCase(MixUp(), naive_mixup),
        EditCase(MixUp(alpha=1.0), naive_mixup),
        EditCase(MixUp(alpha=0.0), naive_mixup),
    ),
    "cutmix": (
        EditCase(CutMix(), naive_cutmix, inputs=IMAGES),
        EditCase(CutMix(alpha=0.5, per_sample=True), naive_cutmix),
        EditCase(CutMix(alpha=0.0), naive_cutmix),
    ),
    "cutout": (
        EditCase(CutOut(), naive_cutout(0.0), inputs=IMAGES, dense=False),
        EditCase(CutOut(length=0.3, num_holes=3), naive_cutout(0.0), dense=False),
        EditCase(CutOut(length=1.0, per_sample=False), naive_cutout(0.0), dense=False),
        EditCase(CutOut(fill=114, space="bytes"), naive_cutout(114.0), inputs=("bytes",), dense=False),
        EditCase(CutOut(fill=0.5, space="unit", num_holes=2), naive_cutout(0.5), inputs=("unit",), dense=False),
    ),
    "label_smoothing": (
        EditCase(LabelSmoothing(), naive_smoothing(0.1), CLASS_TASKS, inputs=(*IMAGES, "features")),
        EditCase(LabelSmoothing(smoothing=0.0), naive_smoothing(0.0), CLASS_TASKS),
        EditCase(LabelSmoothing(smoothing=1.0), naive_smoothing(1.0), CLASS_TASKS),
    ),
    "normalize": (
        EditCase(
            Normalize(mean=[0.5, 0.25, 0.6], std=[0.25, 0.5, 0.3]),
            naive_normalizing([0.5, 0.25, 0.6], [0.25, 0.5, 0.3], 255),
            inputs=("bytes",),
            dense=False,
            gives=True,
        ),
        EditCase(
            Normalize(mean=[0.5, 0.25, 0.6], std=[0.4], channels_last=True),
            naive_normalizing([0.5, 0.25, 0.6], [0.4], 255),
            inputs=("bytes",),
            dense=False,
            gives=True,
        ),
        EditCase(
            Normalize(mean=[0.5, 0.25, 0.6], std=[0.4]),
            naive_normalizing([0.5, 0.25, 0.6], [0.4], 1),
            inputs=("unit",),
            dense=False,
            gives=True,
        ),
    ),
    "trivial_augment": (
        EditCase(TrivialAugment(), naive_augmenting(255), IMAGE_TASKS, inputs=("bytes",), dense=False),
        EditCase(TrivialAugment(), naive_augmenting(1), IMAGE_TASKS, inputs=("unit",), dense=False),
        EditCase(
            TrivialAugment(space="standard", strengths=5),
            naive_augmenting(255),
            IMAGE_TASKS,
            inputs=("bytes",),
            dense=False,
        ),
    ),
    "one_of": (
        EditCase(OneOf(algorithms=[MixUp(alpha=1.0), CutMix()]), naive_choice(mixup=naive_mixup, cutmix=naive_cutmix)),
        EditCase(
            OneOf(algorithms=[CutMix(id="small", alpha=3.0), CutOut(), MixUp()], weights=[1, 2, 1e-300]),
            naive_choice(small=naive_cutmix, cutout=naive_cutout(0.0), mixup=naive_mixup),
        ),
    ),
    "ema": (
        WeightsCase(EMA(), naive_average(0.5 ** (1 / 100), warmup=True)),
        WeightsCase(EMA(half_life=4, warmup=False), naive_average(0.5 ** (1 / 4), warmup=False)),
        WeightsCase(EMA(decay=0.9), naive_average(0.9, warmup=True)),
        WeightsCase(EMA(decay=0.0, warmup=False), naive_average(0.0, warmup=False)),
        WeightsCase(EMA(half_life=2, every=3, warmup=False), naive_average(0.5 ** (3 / 2), warmup=False)),
    ),
    "swa": (
        WeightsCase(SWA(start="0ba"), naive_mean),
        WeightsCase(SWA(start="3ba", every=2), naive_mean),
    ),
    "sam": (
        StepCase(SAM(), naive_sam(0.05)),
        StepCase(SAM(rho=2.0), naive_sam(2.0)),
        StepCase(SAM(rho=0.0), naive_sam(0.0)),
        StepCase(SAM(rho=0.5, adaptive=True), naive_sam(0.5, adaptive=True)),
    ),
    "gradient_clipping": (
        StepCase(GradientClipping(), naive_norm_clipping(1.0)),
        StepCase(GradientClipping(threshold=0.01), naive_norm_clipping(0.01)),
        StepCase(GradientClipping(threshold=1e9), naive_norm_clipping(1e9)),
        StepCase(GradientClipping(by="value", threshold=0.02), naive_value_clipping(0.02)),
    ),
}


def without_a_case(registered: Sequence[str]) -> set[str]:
    """Return the registered names that have no case."""
    return {name for name in registered if not CASES.get(name)}
