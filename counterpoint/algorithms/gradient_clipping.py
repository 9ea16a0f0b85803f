"""Gradient clipping: bound the gradient before the optimizer uses it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from counterpoint.algorithms.optimized import dense_gradient, optimized
from counterpoint.core import Algorithm, Event, Scope, before

__all__ = ["GradientClipping"]


class GradientClipping(Algorithm[None], name="gradient_clipping"):
    """Bound the gradient before each update: its norm, or each of its values.

    By ``norm``, all gradients together are scaled by ``min(1, threshold / (norm + 1e-6))``, where ``norm`` is the
    Euclidean norm over all parameters that the optimizer holds. By ``value``, each value is moved between
    ``-threshold`` and ``threshold``. It acts on the gradient of the whole device batch, for any number of microbatches.

    >>> GradientClipping(by="value", threshold=0.5).by
    'value'

    Pascanu, Mikolov and Bengio, On the Difficulty of Training Recurrent Neural Networks, ICML 2013,
    https://arxiv.org/abs/1211.5063
    """

    by: Literal["norm", "value"] = Field(default="norm", description="what is bounded")
    threshold: float = Field(default=1.0, gt=0, le=1e30, description="largest norm, or largest absolute value")

    @before(Event.UPDATE, reads="optimizer", writes="gradients")
    def clip(self, state: None, scope: Scope) -> None:
        """Bound the gradient."""
        parameters = optimized(scope.optimizer)
        if all(parameter.grad is not None and parameter.grad.layout is torch.strided for parameter in parameters):
            clip = clip_grad_norm_ if self.by == "norm" else clip_grad_value_
            clip(parameters, self.threshold)
            return
        gradients = [dense_gradient(parameter) for parameter in parameters]
        if self.by == "norm":
            factor = (self.threshold / (get_total_norm(gradients) + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(factor.to(gradient.device))
        else:
            for gradient in gradients:
                gradient.clamp_(-self.threshold, self.threshold)
