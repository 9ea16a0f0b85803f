"""Timing on a GPU: its own time apart from the host's, and the copies that bound it. A CPU has one clock for both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from benchmarks.timing import ROUNDS, WARM_UP

__all__ = ["Times", "bandwidth", "kernels", "medians_on", "wait"]

Work = Callable[[int], Any]
"""What is timed, called with the number of its round, so that it can take another batch each time."""

_PROBE = 10_000_000
_AHEAD, _LONGEST = 2.0, 200.0
"""By how much the pause is longer than the host needs, and milliseconds that it lasts at most."""


class Times(NamedTuple):
    """Milliseconds of a call, medians.

    ``device`` is what the GPU takes for work that waits in its queue: the host has called it all during a pause. If the
    call waits for the GPU within, the host's time after that is in it. ``host`` is what the call takes to return, and
    ``wall`` what it takes until the GPU is done, from an idle GPU on.
    """

    device: float
    host: float
    wall: float


def wait(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def medians_on(device: torch.device, works: Mapping[str, Work], rounds: int = ROUNDS) -> dict[str, Times]:
    """Time works in turns, over rounds in which each has its turn, after rounds that are not counted."""
    cycles = _cycles_a_millisecond() if device.type == "cuda" else 0.0
    found: dict[str, list[Times]] = {name: [] for name in works}
    pauses = dict.fromkeys(works, 1.0)
    for number in range(WARM_UP + rounds):
        for name, work in works.items():
            host, wall = _by_the_clock(device, work, number)
            own = wall if device.type != "cuda" else _by_events(work, number, int(cycles * pauses[name]))
            pauses[name] = min(_LONGEST, 0.5 + _AHEAD * host)
            if number >= WARM_UP:
                found[name].append(Times(own, host, wall))
    return {
        name: Times(*(statistics.median(column) for column in zip(*times, strict=True)))
        for name, times in found.items()
    }


def _by_the_clock(device: torch.device, work: Work, number: int) -> tuple[float, float]:
    wait(device)
    began = time.perf_counter()
    work(number)
    returned = time.perf_counter()
    wait(device)
    return 1e3 * (returned - began), 1e3 * (time.perf_counter() - began)


def _by_events(work: Work, number: int, pause: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(pause)
    begin.record()
    work(number)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def _cycles_a_millisecond() -> float:
    torch.cuda._sleep(_PROBE)
    return _PROBE / statistics.median(_by_events(lambda _: torch.cuda._sleep(_PROBE), 0, 1) for _ in range(5))


def bandwidth(device: torch.device, size: int) -> float:
    """Return the bytes a millisecond, read and written, of copies of ``size`` bytes on the device."""
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / medians_on(device, {"copy": lambda _: target.copy_(source)})["copy"].device


def kernels(device: torch.device, work: Work, calls: int = 5) -> dict[str, float]:
    """Return the microseconds a call that the device spends in each of its kernels and copies, longest first."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    for number in range(WARM_UP):
        work(number)
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as seen:
        for number in range(calls):
            work(number)
        wait(device)
    took: dict[str, float] = {}
    for event in seen.events():
        if not cuda or event.device_type == torch.autograd.DeviceType.CUDA:
            own = event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
            took[event.name] = took.get(event.name, 0.0) + own / calls
    return dict(sorted(took.items(), key=lambda pair: -pair[1]))
