"""The chain and the single methods, against other libraries and the floor of their memory traffic, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.check import CLASSES, MEAN, STD, check_batch, check_paste, holes_and_weights, seeded
from benchmarks.contenders import LENGTH, Contender, Ours, chain
from benchmarks.timing import best_peer, medians, table

__all__ = ["Goal", "chains", "singles"]

CHAIN: list[Any] = [
    {"name": "normalize", "mean": list(MEAN), "std": list(STD)},
    {"name": "cutout", "length": LENGTH},
    "mixup",
    "label_smoothing",
]
COMPILED, EAGER = "counterpoint, compiled", "counterpoint, eager"
FLOOR = "uint8 to float32 alone, memory kept"


@dataclass(frozen=True)
class Goal:
    """A ratio that was aimed at and the one that was measured, ``None`` where there was nothing to compare with."""

    what: str
    aim: float
    found: float | None
    at_least: bool = True

    @property
    def line(self) -> str:
        """A line of the table of goals."""
        sign = "≥" if self.at_least else "≤"
        if self.found is None:
            return f"| {self.what} | {sign} {self.aim:g} | no peer is installed | not judged |"
        holds = self.found >= self.aim if self.at_least else self.found <= self.aim
        return f"| {self.what} | {sign} {self.aim:g} | {self.found:.3g} | {'holds' if holds else 'MISSED'} |"


def bytes_and_labels(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Return a batch of bytes and its class indices."""
    numbers = torch.Generator().manual_seed(side)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=numbers)
    return images, torch.randint(CLASSES, (count,), generator=numbers)


def chains(peers: list[Contender], count: int, side: int, how: str, *, backend: str | None = None) -> list[Goal]:
    """Time the whole chain; ``how`` says what of the machine was changed for it."""
    images, labels = bytes_and_labels(count, side)
    ours = [Ours(EAGER, CHAIN, inputs="bytes")]
    if backend != "none":
        ours.append(Ours(COMPILED, CHAIN, inputs="bytes", compile=True))
    works: dict[str, Callable[[], Any]] = {}
    for one in ours:
        for _ in range(3):  # a plan compiles when it comes by a second time
            edited = one(images, labels)
        check_batch(one.name, edited, (images, labels), one.drawn(images))
        works[one.name] = partial(one, images, labels)
    for peer in peers:
        seeded(7)
        edited = chain(peer, images, labels)
        check_batch(peer.name, edited, (images, labels), holes_and_weights(peer.erase, peer.mix, images.shape, 7))
        works[peer.name] = partial(chain, peer, images, labels)
    kept = torch.empty(images.shape)
    works[FLOOR] = partial(kept.copy_, images)
    times = medians(works, calls=_calls(side))
    table(f"chain, {count}×3×{side}×{side}, {how}", times, FLOOR)
    return _chain_goals(times, side, how)


def _chain_goals(times: dict[str, float], side: int, how: str) -> list[Goal]:
    ours = COMPILED if COMPILED in times else EAGER
    best = best_peer(times, COMPILED, EAGER, FLOOR)
    ratio = None if best is None else best[1] / times[ours]
    if side < 100:
        return [Goal(f"chain {side}², against the best peer, {how}", 3.5, ratio)]
    aim = 5.0 if how == "as users run it" else 3.0
    goals = [Goal(f"chain {side}², against the best peer, {how}", aim, ratio)]
    goals.append(Goal(f"chain {side}², against the conversion, {how}", 2.2, times[ours] / times[FLOOR], at_least=False))
    return goals


def singles(peers: list[Contender], count: int, side: int) -> list[Goal]:
    """Time MixUp, CutMix and CutOut alone, eager and donated; CutOut against those who draw as many holes."""
    each, one = ([peer for peer in peers if peer.hole_each is so] for so in (True, False))
    large = side > 100
    goals = _single_goals("mixup", "mixup", {}, peers, count, side, 4.0 if large else 1.2)
    goals += _single_goals("cutmix", "cutmix", {}, peers, count, side, 3.0 if large else 1.2)
    holes = {"length": LENGTH}
    goals += _single_goals("cutout, a hole an image,", "cutout", holes, each, count, side, 1.1 if large else 1.2)
    holes = {"length": LENGTH, "per_sample": False}
    goals += _single_goals("cutout, a hole for all,", "cutout", holes, one, count, side, 1.1 if large else 1.2)
    return goals


def _single_goals(
    title: str, method: str, settings: dict[str, Any], peers: list[Contender], count: int, side: int, aim: float
) -> list[Goal]:
    images, labels = bytes_and_labels(count, side)
    values = images.float().div_(255)
    ours = Ours(EAGER, [{"name": method, **settings}], donate=True, inputs="unit")
    _check_ours(ours, method, values, labels)
    works: dict[str, Callable[[], Any]] = {EAGER: partial(ours, values.clone(), labels)}
    for peer in peers:
        works[peer.name] = _single(peer, method, values, labels)
    works["copy, memory kept"] = partial(torch.empty_like(values).copy_, values)
    times = medians(works, calls=_calls(side))
    table(f"{title} alone, {count}×3×{side}×{side}, float32", times, "copy, memory kept")
    best = best_peer(times, EAGER, "copy, memory kept")
    return [Goal(f"{title} alone {side}², against the best peer", aim, best and best[1] / times[EAGER])]


def _calls(side: int) -> int:
    """Return how often each is called in its turn: what takes less than a clock tells well is called more often."""
    return 1 if side > 100 else 10


def _check_ours(ours: Ours, method: str, values: Tensor, labels: Tensor) -> None:
    if method == "cutmix":
        check_paste(
            ours.name, lambda images, targets: ours.plan(images, targets, step=5, donate=True), values, labels, 0
        )
        return
    inputs, targets = ours(values.clone(), labels)
    holes, weights = ours.drawn(values)
    exact = values.double().masked_fill(holes, 0.0)
    wanted = (weights @ exact.flatten(1)).view_as(exact)
    torch.testing.assert_close(inputs.double(), wanted, rtol=1e-4, atol=1e-5)
    if method == "mixup":
        rows = torch.nn.functional.one_hot(labels, CLASSES).double()
        torch.testing.assert_close(targets.double(), weights @ rows, rtol=0, atol=1e-5)


def _single(peer: Contender, method: str, values: Tensor, labels: Tensor) -> Callable[[], Any]:
    """Return a peer's work on a batch of its own, once it has been held to the reference."""
    if method == "cutmix":
        check_paste(peer.name, peer.paste, values, labels, 11)
        return partial(peer.paste, values.clone(), labels)
    holes, weights = holes_and_weights(peer.erase, peer.mix, values.shape, 11)
    seeded(11)
    edited = peer.erase(values.clone())
    if not torch.equal(edited, values.masked_fill(holes, 0.0)):
        raise AssertionError(f"{peer.name}: what is not erased has changed")
    if method == "cutout":
        return partial(peer.erase, values.clone())
    check_batch(peer.name, peer.mix(edited, labels), (values, labels), (holes, weights), smoothing=0.0)
    return partial(peer.mix, values.clone(), labels)
