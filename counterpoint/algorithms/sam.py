"""SAM: step along the gradient at the worst point nearby, to find flat minima."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from counterpoint.algorithms.optimized import optimized
from counterpoint.core import Algorithm, Event, Scope, replace
from counterpoint.core.declare.kinds import OPTIMIZER_STEP
from counterpoint.core.errors import RunError
from counterpoint.core.tensors.saved import SavedTensors

__all__ = ["SAM", "sam_perturbation"]


def sam_perturbation(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, *, adaptive: bool = False
) -> list[Tensor]:
    """Return for each weight the perturbation that raises the loss most, to first order, within a radius of ``rho``.

    It is ``rho * g / ||g||``, and with ``adaptive`` ``rho * w**2 * g / ||w * g||``, whose radius grows with each
    weight. The norm is the Euclidean one over all tensors together; where it is 0, so are the perturbations. Weights
    and gradients are floating and of the same shapes, ``rho`` is at least 0.

    >>> sam_perturbation([torch.zeros(2)], [torch.tensor([3.0, 4.0])], 0.5)
    [tensor([0.3000, 0.4000])]

    Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization, ICML 2021, https://arxiv.org/abs/2102.11600
    """
    if adaptive:
        radii = [weight.abs() for weight in weights]
        steps = sam_perturbation(weights, [radius * g for radius, g in zip(radii, gradients, strict=True)], rho)
        return [radius * step for radius, step in zip(radii, steps, strict=True)]
    # A product with rho / norm would be infinite or NaN for a tiny norm.
    length = get_total_norm(gradients) / rho
    length = torch.where(length > 0, length, torch.inf)
    return [gradient / length.to(gradient.device) for gradient in gradients]


@contextmanager
def _perturbed(parameters: Sequence[nn.Parameter], perturbations: Sequence[Tensor]) -> Iterator[None]:
    """Add perturbations for as long as the context lasts; then the weights are back, bit for bit."""
    # Subtracting what was added is not exact: w + e - e differs from w by rounding.
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, perturbation in zip(parameters, perturbations, strict=True):
                parameter.add_(perturbation)
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in zip(parameters, kept, strict=True):
                parameter.copy_(weights)


@contextmanager
def _held(model: nn.Module) -> Iterator[None]:
    """Put the model's buffers back at the end, so that batch norm's statistics and counts are updated once a step."""
    saved = SavedTensors(model)
    try:
        yield
    finally:
        saved.restore()


class SAM(Algorithm[None], name="sam"):
    """Update the weights along the gradient at a perturbed point, where the loss nearby is highest.

    A step runs forward and backward twice over all microbatches of the same edited batch. The first gradient gives the
    perturbation ``rho * g / ||g||``. The second gradient is taken at the perturbed weights. It is clipped, and the
    optimizer applies it to the unperturbed weights. The reported loss is the first. Buffers, such as batch norm's
    statistics, keep the values after the first pass. Raises ``RunError`` for float16 weights.

    >>> SAM(rho=0.1).rho
    0.1

    Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, ICLR 2021,
    https://arxiv.org/abs/2010.01412
    """

    rho: float = Field(default=0.05, ge=0, le=1e6, description="radius of the perturbation")
    adaptive: bool = Field(default=False, description="makes the radius grow with each weight (ASAM)")

    @replace(Event.STEP, reads="optimizer", writes=("parameters", "gradients"), claims=OPTIMIZER_STEP)
    def run_twice(self, state: None, scope: Scope, run: Callable[[], Tensor]) -> Tensor:
        """Take the gradient at the perturbed weights, and put the weights back."""
        loss = run()
        parameters = optimized(scope.optimizer)
        _refuse_half(parameters, scope.owner)
        with torch.no_grad():
            gradients = [parameter.grad.to_dense() for parameter in parameters if parameter.grad is not None]
            perturbations = sam_perturbation(parameters, gradients, self.rho, adaptive=self.adaptive)
        with _perturbed(parameters, perturbations), _held(scope.model):
            run()
        return loss


def _refuse_half(parameters: Sequence[nn.Parameter], owner: str) -> None:
    if any(parameter.dtype == torch.float16 for parameter in parameters):
        raise RunError(
            f"{owner} cannot train float16 weights: their gradients overflow, and an infinite one makes the "
            "perturbation NaN; use bfloat16 or float32"
        )
