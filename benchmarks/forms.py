"""Where the form of an edit changes: each method in both, by the bytes of a sample, on one core.

Run ``python -m benchmarks.forms``. A line where the form in passes is still the faster one lies below the size at which
``counterpoint.algorithms.forms`` changes over; next to that size either will do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from counterpoint.algorithms import cutmix, cutout, forms, mixup
from counterpoint.algorithms.boxes import clipped_boxes

SIDES = (8, 16, 24, 32, 48, 64, 96, 128)
BYTES = 16 << 20
ROUNDS = 21


def edits(count: int, side: int) -> dict[str, tuple[str, Callable[[], Tensor]]]:
    """Return what is timed, each with its name in ``forms.FROM_BYTES``."""
    numbers = torch.Generator().manual_seed(side)

    def places() -> Tensor:
        return torch.randint(0, side, (count,), generator=numbers)

    images = torch.randn(count, 3, side, side, generator=numbers)
    perm = torch.randperm(count, generator=numbers)
    boxes = clipped_boxes(places(), places(), torch.tensor(side // 2), torch.tensor(side // 2), side, side)
    box = torch.tensor([[side // 4, side // 4, side - side // 8, side - side // 8]])
    return {
        "mixup": ("mix", lambda: mixup.mix(images, 0.3, perm, in_place=True)),
        "cutmix": ("paste", lambda: cutmix.paste(images, box, perm, in_place=True)),
        "cutmix, a box each": ("paste each", lambda: cutmix.paste(images, boxes, perm, in_place=True)),
        "cutout": ("fill", lambda: cutout.fill_boxes(images, boxes[:, None], 0.0, in_place=True)),
    }


def compare(work: Callable[[], Tensor], size: str) -> tuple[float, float]:
    """Return the milliseconds of processor time in passes and one by one."""
    times: dict[int, list[float]] = {1 << 60: [], 1: []}
    for _ in range(ROUNDS):
        for threshold, found in times.items():
            with mock.patch.dict(forms.FROM_BYTES, {size: threshold}):
                began = time.thread_time()
                work()
                found.append(1e3 * (time.thread_time() - began))
    passes, one_by_one = (statistics.median(found[2:]) for found in times.values())
    return passes, one_by_one


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("milliseconds of processor time, median\n")
    print("| edit | bytes of a sample | in passes | one by one | changes over at |\n| --- | --- | --- | --- | --- |")
    for name in edits(2, 8):
        for side in SIDES:
            sample = 12 * side**2
            size, work = edits(min(512, BYTES // sample), side)[name]
            passes, one_by_one = compare(work, size)
            print(f"| {name} | {sample} | {passes:.2f} | {one_by_one:.2f} | {forms.FROM_BYTES[size]} |", flush=True)


if __name__ == "__main__":
    main()
