"""A known loss: the module it stands for, its exact form, and what the checker and the loop need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from counterpoint.core.declare.kinds import SMOOTHING, Kind
from counterpoint.core.declare.loss import LossSpec, OutputKind
from counterpoint.losses.checks import checked_choice, element_count, sample_means, weighed_classes
from counterpoint.losses.classes import sample_losses, total, weighed
from counterpoint.losses.weights import WithWeights

__all__ = ["ELEMENTS", "POSITIONS", "Averages", "KnownLoss"]


@dataclass(frozen=True)
class Averages:
    """How a loss averages.

    ``denominators`` holds, for each reduction that divides, a function of targets that returns the divisor.
    ``each(run, outputs, targets)`` is the loss of each sample, (N), where ``run`` is the loss with a ``reduction`` to
    choose. ``classes`` takes the weights and returns the number of classes that they are for. ``counted`` says that
    positions count by a ``weight`` and an ``ignore_index``: the denominators take both, and ``each`` the latter.
    """

    denominators: Mapping[str, Callable[..., Tensor]]
    each: Callable[..., Tensor]
    classes: Callable[..., int | None] = weighed_classes
    counted: bool = False


ELEMENTS = Averages({"mean": element_count}, sample_means)
"""A mean over all elements, as of losses on independent labels and on real numbers."""

POSITIONS = Averages({"mean": total}, sample_losses, weighed, counted=True)
"""A mean over the positions that count, by their weights, as of losses over classes."""


@dataclass(frozen=True)
class KnownLoss:
    """A loss module, by its exact type, and the function that is right for every kind of targets it accepts.

    ``function(outputs, targets, reduction=...)`` also takes as keywords the module's attributes that are named in
    ``settings``, read once, and in ``weights``, read at every call. ``functions`` are those that compute the same as
    the module and take its arguments. ``check`` raises ``ConfigError`` for a module with a setting out of range. A
    setting ``label_smoothing`` claims smoothing. The documentation lists ``formula``, the loss of a position;
    ``mixed``, whether it is linear in the targets; and ``refused``, what it refuses.

    A file of this package that holds some in ``KNOWN`` adds them to what ``resolve_loss`` knows.
    """

    module: type[nn.Module]
    function: Callable[..., Tensor]
    accepts: frozenset[Kind]
    outputs: OutputKind | None = None
    averages: Averages = ELEMENTS
    settings: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    functions: tuple[Callable[..., Tensor], ...] = ()
    check: Callable[[Any], object] = bool
    formula: str = ""
    mixed: str = ""
    refused: str = ""

    def spec(self, loss: nn.Module) -> LossSpec:
        """Describe a module of this type; raises ``ConfigError`` where one of its settings is out of range.

        >>> from torch.nn import functional
        >>> from counterpoint.core.declare.kinds import REAL
        >>> known = KnownLoss(nn.MSELoss, functional.mse_loss, frozenset({REAL}))
        >>> known.spec(nn.MSELoss()).name
        'MSELoss'
        """
        self.check(loss)
        reduction = checked_choice("reduction", loss.reduction, ("none", "sum", *self.averages.denominators))
        settings = {name: getattr(loss, name) for name in self.settings}
        ignoring: dict[str, Any] = {"ignore_index": loss.ignore_index} if self.averages.counted else {}
        run = self._with_weights(partial(self.function, **settings), loss)
        smoothing = float(settings.get("label_smoothing", 0))
        return LossSpec(
            name=type(loss).__name__,
            function=partial(run, reduction=reduction),
            accepts=self.accepts,
            claims=(SMOOTHING.of(smoothing),) if smoothing > 0 else (),
            denominator=self._denominator(loss, reduction, ignoring),
            each=partial(self.averages.each, run, **ignoring),
            classes=self.averages.classes(*(getattr(loss, name) for name in self.weights)),
            outputs=self.outputs,
            **ignoring,
        )

    def _denominator(
        self, loss: nn.Module, reduction: str, ignoring: Mapping[str, Any]
    ) -> Callable[[Tensor], Tensor] | None:
        denominator = self.averages.denominators.get(reduction)
        if denominator is None or not self.averages.counted:
            return denominator
        return self._with_weights(partial(denominator, **ignoring), loss)

    def _with_weights(self, function: Callable[..., Tensor], loss: nn.Module) -> Callable[..., Tensor]:
        return WithWeights(function, loss, self.weights) if self.weights else function
