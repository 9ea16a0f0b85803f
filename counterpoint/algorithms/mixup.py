"""MixUp: train on convex combinations of samples and of their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from counterpoint.algorithms.forms import from_front, gathered, in_passes, is_permutation, one_by_one, partners
from counterpoint.core import Algorithm, Batch, BatchSpec, Law, Rng, transform
from counterpoint.core.declare.kinds import CONTINUOUS, MIXABLE, MIXING
from counterpoint.core.errors import DataError
from counterpoint.core.tensors.buffers import LARGE, empty_like

__all__ = ["MixUp", "Mixing", "mixup"]


def mixup(inputs: Tensor, targets: Tensor, lam: float | Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each sample with a partner: ``lam * (x, y) + (1 - lam) * (x, y)[perm]``.

    ``inputs`` is floating, (N, ...); ``targets`` is dense or otherwise floating, (N, ...); ``lam`` lies between 0 and
    1, one number or one a sample, (N); ``perm`` holds N int64 indices. Both results keep their dtypes. Raises
    ``DataError`` for inputs or targets that are not floating.

    >>> x, y = mixup(torch.tensor([[0.0], [1.0]]), torch.eye(2), 0.75, torch.tensor([1, 0]))
    >>> x.flatten(), y[0]
    (tensor([0.2500, 0.7500]), tensor([0.7500, 0.2500]))

    Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, https://arxiv.org/abs/1710.09412
    """
    perm = from_front(perm)
    return mix(inputs, lam, perm), mix(targets, lam, perm)


def mix(values: Tensor, lam: float | Tensor, perm: Tensor, *, in_place: bool = False) -> Tensor:
    """Return ``lam * values + (1 - lam) * values[perm]``; with ``in_place``, ``values`` may be written to.

    ``perm`` counts from the front.
    """
    if not values.is_floating_point():
        raise DataError(f"an average of {values.dtype} values has no meaning: make them floating, or targets dense")
    if values.nbytes < LARGE and _is_host_number(lam, values):
        others, share = values[perm], 1 - float(lam)
        return values.lerp_(others, share) if in_place else torch.lerp(values, others, share)
    if in_passes(values, *([lam] if isinstance(lam, Tensor) else [])):
        if _is_host_number(lam, values):  # as without gradients, to the bit
            return torch.lerp(values, values[perm], 1 - float(lam))
        return _mix_in_passes(values, lam, perm, in_place=in_place)
    if one_by_one(values, "mix"):
        return _mix_one_by_one(values, lam, perm.tolist(), in_place=in_place)
    if isinstance(lam, Tensor) and lam.ndim:
        return _mix_in_passes(values, lam, perm, in_place=in_place)
    others = gathered(values, perm)
    return torch.lerp(values, others, 1 - float(lam), out=others)


def _is_host_number(lam: float | Tensor, values: Tensor) -> bool:
    """Whether the share is one number that the host may read and that requires no gradient."""
    if torch.compiler.is_compiling() or values.device.type != "cpu":
        return False
    return not isinstance(lam, Tensor) or (lam.ndim == 0 and lam.device.type == "cpu" and not lam.requires_grad)


def _mix_in_passes(values: Tensor, lam: float | Tensor, perm: Tensor, *, in_place: bool) -> Tensor:
    share = lam.to(values.device) if isinstance(lam, Tensor) else lam
    if isinstance(share, Tensor) and share.ndim:
        share = share.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    others = values[perm].mul_(1 - share)
    kept = values.mul_(share) if in_place else values * share
    return kept.add_(others)


def _mix_one_by_one(values: Tensor, lam: float | Tensor, perm: Sequence[int], *, in_place: bool) -> Tensor:
    weights = (1 - torch.as_tensor(lam, dtype=torch.float64)).expand(len(values)).tolist()
    in_place = in_place and is_permutation(perm)
    mixed = values if in_place else empty_like(values)
    rows, out = values.unbind(), mixed.unbind()
    for number, partner in partners(rows, perm, Tensor.clone, in_place=in_place):
        torch.lerp(rows[number], partner, weights[number], out=out[number])
    return mixed


class Mixing(NamedTuple):
    """The share that each sample keeps, a float64 number, and the partners, N int64 indices."""

    lam: Tensor
    perm: Tensor


class MixUp(Algorithm[Mixing], name="mixup"):
    """Train on convex combinations of samples and of their targets.

    One ``lam ~ Beta(alpha, alpha)`` and one permutation serve the inputs and targets of the whole batch; ``alpha = 0``
    is the identity.

    >>> MixUp(alpha=0.2).alpha
    0.2

    Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, https://arxiv.org/abs/1710.09412
    """

    alpha: float = Field(
        default=0.2, ge=0, le=1e12, description="both parameters of Beta(alpha, alpha); 0 mixes nothing"
    )

    def draw(self, batch: BatchSpec, rng: Rng) -> Mixing:
        """Draw the share and the partners."""
        lam = rng.beta(self.alpha, self.alpha) if self.alpha else torch.ones((), dtype=torch.float64)
        return Mixing(lam, rng.permutation(batch.size))

    @transform(inputs=CONTINUOUS, targets=MIXABLE, law=Law.CONVEX, claims=MIXING)
    def apply(self, batch: Batch, draws: Mixing) -> Batch:
        """Mix inputs and targets with the same share and partners."""
        if self.alpha == 0:
            return batch
        return replace(
            batch,
            inputs=mix(batch.inputs, draws.lam, draws.perm, in_place=batch.writable),
            targets=mix(batch.targets, draws.lam, draws.perm),
        )
