"""The chain on a GPU, from bytes to normalised bfloat16 of channels-last layout, against other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.batches import COMPILED, EAGER, Goal, bytes_and_labels
from benchmarks.check import MEAN, SMOOTHING, STD, check_batch, holes_and_weights, seeded
from benchmarks.contenders import LENGTH, Contender, Ours, chain, peers
from benchmarks.gpu_timing import bandwidth, kernels, medians_on
from counterpoint.algorithms import CutOut, LabelSmoothing, MixUp, Normalize

__all__ = ["Setup", "chain_kernels", "chain_methods", "ours", "time_chain"]

COMPARED = ("timm", "torchvision v2", "kornia")
SEED, SHOWN = 7, 15
BATCHES = 4
"""Batches that take turns, so that none is still in the cache of the device."""
TOLERANCE = 0.04
"""How far a value of bfloat16, of numbers up to 3, may be from the reference; each library rounds several times."""

Result = tuple[dict[str, Any], list[Goal]]


@dataclass(frozen=True)
class Setup:
    """What is measured, and how large."""

    device: torch.device
    count: int = 256
    side: int = 224
    copied: int = 1 << 30
    rounds: int = 15
    steps: int = 200
    backend: str = "inductor"


def chain_methods() -> list[Any]:
    """Return the methods of the chain."""
    normalize = Normalize(mean=MEAN, std=STD, dtype="bfloat16", channels_last=True)
    return [normalize, CutOut(length=LENGTH), MixUp(), LabelSmoothing(smoothing=SMOOTHING)]


def ours(setup: Setup, *, compiled: bool) -> Ours:
    """Return a plan of the chain, to be called."""
    made = Ours(COMPILED if compiled else EAGER, chain_methods(), inputs="bytes")
    if compiled:
        made.plan = replace(made.plan, backend=setup.backend)
    return made


def time_chain(setup: Setup) -> Result:
    """Time everybody's chain and the floor of its bytes; who is off, or absent, is named and not timed."""
    host, given = _given(setup)
    speed = bandwidth(setup.device, setup.copied)
    floor = 3 * host[0].numel() / speed  # a byte read and two written
    works, errors, left_out = _checked(setup, host, given[0])
    times = medians_on(setup.device, {n: partial(_turn, work, given) for n, work in works.items()}, setup.rounds)
    print(f"\ncopies: {speed / 1e9:.3f} TB/s, read and written; floor of the chain: {floor:.4f} ms")
    print(f"\n| chain, {setup.count}×3×{setup.side}×{setup.side} | GPU ms | × floor | host ms | wall ms | error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (device, host, wall) in sorted(times.items(), key=lambda pair: pair[1]):
        print(f"| {name} | {device:.4f} | {device / floor:.2f} | {host:.3f} | {wall:.3f} | {errors[name]:.1e} |")
    for name, why in left_out.items():
        print(f"not timed: {name} ({why})")
    data = {
        "bytes_a_second": 1e3 * speed,
        "floor_ms": floor,
        "ms": {name: found._asdict() | {"error": errors[name]} for name, found in times.items()},
        "not_timed": left_out,
    }
    others = [found for name, found in times.items() if name not in (COMPILED, EAGER)]
    mine = next((name for name in (COMPILED, EAGER) if name in times), None)
    if mine is None:
        raise AssertionError(f"neither plan of ours is right: {left_out}")
    goals = [Goal(f"chain, {mine}, GPU time, against the floor", 1.5, times[mine].device / floor, at_least=False)]
    for clock, what in (("device", "GPU time"), ("wall", "wall-clock")):
        best = min((getattr(other, clock) for other in others), default=None)
        ratio = best and best / getattr(times[mine], clock)
        goals.append(Goal(f"chain, {mine}, {what}, against the best of {', '.join(COMPARED)}", 8, ratio))
    return data, goals


def chain_kernels(setup: Setup) -> Result:
    """Show what the device runs for a call of our chain."""
    given, found = _given(setup)[1], {}
    for compiled in (True, False):
        made = ours(setup, compiled=compiled)
        found[made.name] = kernels(setup.device, partial(_turn, made, given))
        print(f"\n| {made.name}: what runs on the device | µs a call |\n| --- | --- |")
        for name, took in list(found[made.name].items())[:SHOWN]:
            print(f"| {name[:100]} | {took:.1f} |")
    return found, []


def _given(setup: Setup) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, Tensor]]]:
    """Return a batch on the host, and batches on the device of which the first is that one."""
    images, labels = bytes_and_labels(setup.count, setup.side)
    given = [(images.roll(n, 0).to(setup.device), labels.roll(n, 0).to(setup.device)) for n in range(BATCHES)]
    return (images, labels), given


def _turn(work: Callable[[Tensor, Tensor], object], given: list[tuple[Tensor, Tensor]], number: int) -> None:
    work(*given[number % len(given)])


class _Way(NamedTuple):
    """What turns a batch into the chain's result, and what gives the holes and the weights of its last call."""

    work: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    draws: Callable[[], tuple[Tensor, Tensor]]


def _checked(
    setup: Setup, host: tuple[Tensor, Tensor], given: tuple[Tensor, Tensor]
) -> tuple[dict[str, Callable[..., Any]], dict[str, float], dict[str, str]]:
    """Return what may be timed, its error against the reference, and why others may not."""
    works: dict[str, Callable[..., Any]] = {}
    errors: dict[str, float] = {}
    ways, left_out = _ways(setup, host[0])
    for name, way in ways.items():
        try:
            for _ in range(3):  # a plan compiles when it comes by a second time
                seeded(SEED)
                edited = way.work(*given)
            errors[name] = _error(name, edited, host, way.draws())
        except Exception as error:  # noqa: BLE001 - whatever one raises, the others are timed
            left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            works[name] = way.work
    return works, errors, left_out


def _ways(setup: Setup, images: Tensor) -> tuple[dict[str, _Way], dict[str, str]]:
    """Return ours, and each library in four ways: in bfloat16 from the start or at the end, and the layout likewise."""
    made = [ours(setup, compiled=True), ours(setup, compiled=False)]
    ways = {one.name: _Way(one, partial(one.drawn, images)) for one in made}
    absent: dict[str, str] = {}
    for dtype, first in product((torch.bfloat16, torch.float32), (True, False)):
        found, absent = peers(setup.device, dtype)
        for peer in found:
            if peer.name in COMPARED:
                name = f"{peer.name}, {str(dtype).removeprefix('torch.')}, channels-last {'first' if first else 'last'}"
                draws = partial(holes_and_weights, peer.erase, peer.mix, images.shape, SEED, setup.device)
                ways[name] = _Way(partial(_finished, peer, first), draws)
    return ways, {name: f"absent: {why}" for name, why in absent.items() if name in COMPARED}


def _finished(peer: Contender, first: bool, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    laid_out = images.contiguous(memory_format=torch.channels_last) if first else images
    inputs, targets = chain(peer, laid_out, labels)
    return inputs.to(torch.bfloat16, memory_format=torch.channels_last), targets


def _error(
    name: str, edited: tuple[Tensor, Tensor], host: tuple[Tensor, Tensor], draws: tuple[Tensor, Tensor]
) -> float:
    """Hold a result to the reference, and to the form that is asked for; return its error."""
    inputs, targets = edited
    if inputs.dtype != torch.bfloat16 or not inputs.is_contiguous(memory_format=torch.channels_last):
        raise AssertionError(f"{name}: gives {inputs.dtype} with strides {inputs.stride()}")
    return check_batch(name, (inputs.cpu(), targets.cpu()), host, draws, tolerance=TOLERANCE)
