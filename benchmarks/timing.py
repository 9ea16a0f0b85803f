"""Timing contenders side by side in one process, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["ROUNDS", "best_peer", "medians", "table"]

ROUNDS, WARM_UP = 15, 3


def medians(
    works: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = ROUNDS,
    calls: int = 1,
    wait: Callable[[], object] | None = None,
) -> dict[str, float]:
    """Return the median milliseconds of a call, over rounds in which each has its turn; ``wait`` ends device work."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(WARM_UP + rounds):
        for name, work in works.items():
            if wait is not None:
                wait()
            began = time.perf_counter()
            for _ in range(calls):
                work()
            if wait is not None:
                wait()
            if number >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - began) / calls)
    return {name: statistics.median(found) for name, found in times.items()}


def best_peer(times: Mapping[str, float], ours: str, *others: str) -> tuple[str, float] | None:
    """Return the fastest of those that are neither ours nor a floor, if any is there."""
    peers = {name: found for name, found in times.items() if name not in (ours, *others)}
    return min(peers.items(), key=lambda pair: pair[1]) if peers else None


def table(title: str, times: Mapping[str, float], per: str) -> None:
    """Print the times as a Markdown table, with ratios to one of them."""
    print(f"\n| {title} | ms | × {per} |\n| --- | --- | --- |")
    for name, found in sorted(times.items(), key=lambda pair: pair[1]):
        print(f"| {name} | {found:.3g} | {found / times[per]:.2f} |")
