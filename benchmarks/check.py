"""Holding what is timed to a float64 reference, whatever it drew: its draws are read off probes under the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["CLASSES", "MEAN", "SMOOTHING", "STD", "check_batch", "check_paste", "holes_and_weights", "seeded"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMOOTHING, CLASSES = 0.1, 10

Erase = Callable[[Tensor], Tensor]
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def seeded(seed: int) -> None:
    """Seed every generator that a library may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what the other libraries draw from
    torch.manual_seed(seed)


def holes_and_weights(
    erase: Erase, mix: Mix, shape: torch.Size, seed: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return what was erased and the N x N weights of the mixing that follow a seed, found on probes; on the host."""
    count, pixels = shape[0], shape[1:].numel()
    seeded(seed)
    holes = erase(torch.ones(shape, device=device)) == 0
    probe = torch.zeros(count, pixels)
    probe[:, :count] = torch.eye(count)
    mixed, _ = mix(probe.view(shape).to(device), torch.arange(count, device=device) % CLASSES)
    return holes.cpu(), mixed.reshape(count, -1)[:, :count].double().cpu()


def check_batch(
    name: str,
    found: tuple[Tensor, Tensor],
    given: tuple[Tensor, Tensor],
    draws: tuple[Tensor, Tensor],
    smoothing: float = SMOOTHING,
    tolerance: float = 1e-4,
) -> float:
    """Hold bytes normalised, erased and mixed, and their targets, to the formulas in float64; all on the host.

    Return the error of the inputs, as a share of their norm; each value may be off by ``tolerance``.
    """
    (inputs, targets), (images, labels), (holes, weights) = found, given, draws
    share = holes.double().mean().item()
    if not (0.005 < share < 0.6 and torch.allclose(weights.sum(1), torch.ones(len(weights)).double(), atol=1e-5)):
        raise AssertionError(f"{name}: erases {share:.3f} of the pixels and mixes with weights that do not sum to 1")
    exact = images.double() / 255 if images.dtype == torch.uint8 else images.double()
    if images.dtype == torch.uint8:
        exact = exact.sub_(exact.new_tensor(MEAN).view(-1, 1, 1)).div_(exact.new_tensor(STD).view(-1, 1, 1))
    exact.masked_fill_(holes, 0.0)
    wanted = (weights @ exact.flatten(1)).view_as(exact)
    off = inputs.double()
    torch.testing.assert_close(off, wanted, rtol=tolerance, atol=tolerance, msg=lambda why: f"{name}: {why}")
    rows = torch.nn.functional.one_hot(labels, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
    torch.testing.assert_close(targets.double(), weights @ rows, rtol=0, atol=1e-4, msg=lambda why: f"{name}: {why}")
    return float((off - wanted).norm() / wanted.norm())


def check_paste(name: str, mix: Mix, images: Tensor, labels: Tensor, seed: int) -> None:
    """Hold a CutMix to its own boxes, read off images that hold nothing but their number."""
    count = len(images)
    numbers = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1)
    seeded(seed)
    source, _ = mix(numbers.expand_as(images).contiguous(), labels)
    seeded(seed)
    inputs, targets = mix(images.clone(), labels)
    taken = source.round().long()
    if not torch.equal(inputs, torch.gather(images, 0, taken)):
        raise AssertionError(f"{name}: pixels are not those of the partner inside the box and its own outside")
    weights = torch.stack([(taken == partner).double().mean((1, 2, 3)) for partner in range(count)], 1)
    rows = torch.nn.functional.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(targets.double(), weights @ rows, rtol=0, atol=1e-4, msg=lambda why: f"{name}: {why}")
