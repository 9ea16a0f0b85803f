"""Batches on the device that trains: on CUDA the next one is on its way while this one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

__all__ = ["prefetch"]


def prefetch(loader: Iterable[Sequence[Tensor]], device: torch.device) -> Iterator[Sequence[Tensor]]:
    """Give each batch of a loader on a device.

    On CUDA a batch is moved on a stream of its own, one batch ahead of its use: from pinned memory nothing waits for
    it. So the loader is asked for one batch more than has been used.

    >>> [[tensor.tolist() for tensor in batch] for batch in prefetch([[torch.ones(2)]], torch.device("cpu"))]
    [[[1.0, 1.0]]]
    """
    if device.type == "cuda":
        return _ahead(loader, device)
    return (send_to_device(batch, device, non_blocking=True) for batch in loader)


def _ahead(loader: Iterable[Sequence[Tensor]], device: torch.device) -> Iterator[Sequence[Tensor]]:
    side: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    batches = iter(loader)
    moved = _moved(batches, side, device)
    while moved is not None:
        # First this batch, then the next: the stream that computes waits for all that is on its way by then.
        _take(moved, side, device)
        batch, moved = moved, _moved(batches, side, device)
        yield batch


def _moved(batches: Iterator[Sequence[Tensor]], side: torch.cuda.Stream, device: torch.device) -> Any:
    """Send the next batch, if there is one, on its way to the device."""
    batch = next(batches, None)
    with torch.cuda.stream(side):
        return None if batch is None else send_to_device(batch, device, non_blocking=True)


def _take(batch: Sequence[Tensor], side: torch.cuda.Stream, device: torch.device) -> None:
    """Let the stream that computes wait for a batch, whose memory is then kept until that stream is done with it."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(side)
    for tensor in batch:
        tensor.record_stream(current)
