"""Manifold mixup: train on convex combinations of hidden representations and of the targets."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from counterpoint.algorithms.mixup import mix
from counterpoint.core import Algorithm, Batch, BatchSpec, Event, Fault, Law, Outcome, Rng, Scope, around, transform
from counterpoint.core.declare.algorithm import Names
from counterpoint.core.declare.kinds import MIXABLE, MIXING
from counterpoint.core.errors import RunError, nearest

__all__ = ["HiddenMixing", "ManifoldMixup"]


class HiddenMixing(NamedTuple):
    """The share that each sample keeps, float64; the partners, N int64 indices; the number of the module, int64."""

    lam: Tensor
    perm: Tensor
    module: Tensor


class ManifoldMixup(Algorithm[HiddenMixing], name="manifold_mixup"):
    """Train on convex combinations of hidden representations, and of the targets.

    In every forward pass of training, the output ``h`` of a module becomes ``lam * h + (1 - lam) * h[perm]``, with one
    ``lam ~ Beta(alpha, alpha)`` and one permutation for the batch; its targets are mixed in the same way. Of several
    modules, one is drawn for each batch. ``alpha = 0`` is the identity. A module must run once in a forward pass and
    return a tensor (N, ...) for the whole device batch of N samples, which is checked. A name that the model does not
    have is refused (``no-such-module``), and so are microbatches.

    >>> ManifoldMixup(module="blocks.1").module
    ('blocks.1',)

    Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States, ICML 2019,
    https://arxiv.org/abs/1806.05236
    """

    module: Names = Field(
        min_length=1,
        examples=["embedding"],
        description="name of the module whose output is mixed, or several names: one is drawn for each batch",
    )
    alpha: float = Field(
        default=2.0, ge=0, le=1e12, description="both parameters of Beta(alpha, alpha); 0 mixes nothing"
    )

    def misfits(self, model: nn.Module) -> Iterable[Fault]:
        """Ask for every named module."""
        known = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
        for name in self.module:
            if name not in known:
                yield Fault(
                    "no-such-module",
                    f"{self.identity} mixes the output of {name!r}, and the model ({type(model).__name__}) has no "
                    f"module of that name{nearest(name, known)}",
                    "write one of the names in model.named_modules()",
                    (self.identity,),
                    Event.FORWARD,
                )

    def draw(self, batch: BatchSpec, rng: Rng) -> HiddenMixing:
        """Draw the share, the partners and the module."""
        lam = rng.beta(self.alpha, self.alpha) if self.alpha else torch.ones((), dtype=torch.float64)
        return HiddenMixing(lam, rng.permutation(batch.size), rng.integers(0, len(self.module)))

    @transform(targets=MIXABLE, law=Law.CONVEX, claims=MIXING)
    def apply(self, batch: Batch, draws: HiddenMixing) -> Batch:
        """Mix the targets as the representations will be."""
        return batch.with_targets(mix(batch.targets, draws.lam, draws.perm)) if self.alpha else batch

    @around(Event.FORWARD, reads="modules", writes="outputs", whole_batch=True)
    def mix_hidden(self, state: None, scope: Scope) -> Generator[None, Outcome, None]:
        """Mix the output of the module while the model runs."""
        if self.alpha == 0:
            yield
            return
        name = self.module[int(scope.draws.module)]
        mixer = _Mixer(self.identity, name, scope.draws)
        handle = scope.model.get_submodule(name).register_forward_hook(mixer)
        outcome = yield
        handle.remove()
        if outcome.error is None and mixer.calls == 0:
            raise RunError(
                f"{self.identity}: the module {name!r} did not run in the forward pass, so that only the targets were "
                "mixed; name one that runs in training and is not compiled"
            )


class _Mixer:
    """A forward hook that mixes what a module gives, and counts how often it did."""

    def __init__(self, owner: str, name: str, draws: HiddenMixing) -> None:
        self._owner, self._name, self._draws = owner, name, draws
        self.calls = 0

    def __call__(self, module: nn.Module, inputs: object, output: object) -> Tensor:
        """Return the output, mixed; raises ``RunError`` for one that cannot be."""
        self.calls += 1
        size, who = len(self._draws.perm), f"{self._owner}: the module {self._name!r}"
        if self.calls > 1:
            raise RunError(f"{who} ran twice in a forward pass, and would be mixed twice; name one that runs once")
        if not isinstance(output, Tensor):
            raise RunError(f"{who} gives {type(output).__name__}; name one that gives a tensor (N, ...)")
        if output.ndim == 0 or len(output) != size:
            raise RunError(
                f"{who} gives a tensor of shape {tuple(output.shape)} for a device batch of {size}; name one that "
                "gives (N, ...), and run the whole device batch at once, not in microbatches"
            )
        return mix(output, self._draws.lam, self._draws.perm.to(output.device, non_blocking=True))
