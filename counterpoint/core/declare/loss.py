"""The description of a loss for the checker and the loop."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from counterpoint.core.arguments import MOST, flag, function, instance, whole_number, written
from counterpoint.core.declare.kinds import Claim, Field, Kind
from counterpoint.core.declare.targets import check_classes
from counterpoint.core.errors import ArgumentError, DataError
from counterpoint.core.tensors.checks import check_tensor

__all__ = ["LossSpec", "OutputKind", "check_shapes", "check_values"]


def _any(outputs: Tensor) -> str:
    """Find nothing wrong."""
    return ""


@dataclass(frozen=True)
class OutputKind:
    """The model outputs that a loss accepts. Kinds are open: a package may define its own for a loss.

    ``name`` is the word for it. ``wrong(outputs)`` says in words what shows that a tensor of outputs is not of this
    kind, and returns the empty text if nothing does; it is called on floating outputs, infinite ones included, without
    gradients. ``fix`` says what to do then. ``class_axis=True`` says that axis 1 ranges over the classes or labels: the
    shapes of outputs and targets are then compared at every call, with each other and with the number of classes.

    >>> import torch
    >>> angles = OutputKind("angles", lambda outputs: "" if outputs.abs().max() <= 180 else "one is above 180")
    >>> angles.wrong(torch.tensor([[90.0, 270.0]]))
    'one is above 180'
    """

    name: str
    wrong: Callable[[Tensor], str] = _any
    fix: str = "use a loss that takes what the model gives"
    class_axis: bool = False

    def __post_init__(self) -> None:
        instance("name", self.name, str, "'logits'")
        function("wrong", self.wrong, optional=False)
        instance("fix", self.fix, str, "'use another loss'")
        flag("class_axis", self.class_axis)


@dataclass(frozen=True)
class LossSpec:
    """A loss, with the kinds of target it is right for.

    ``function(outputs, targets)`` is right for every kind in ``accepts``. ``claims`` are the slots that the loss owns
    like any method (``label_smoothing`` claims smoothing). ``ignore_index`` is the class index that marks an ignored
    position. ``denominator(targets)`` is what a mean divides by. The loss of a batch is the sum over its parts of
    ``function(part) * denominator(part) / denominator(batch)``. ``None``: the losses of parts add up. ``each(outputs,
    targets)`` is the loss of each sample, (N), for methods that compare samples: its mean over the positions that
    count, weighted as the loss weights them; ``None`` if not known. ``classes`` is the number of classes or labels that
    its weights are for, ``None`` without such weights. ``outputs`` are the model outputs that it accepts, ``None`` if
    not stated. ``settings`` is plain data that identifies the loss in the plan's fingerprint; by default it describes
    ``function``, ``denominator`` and ``each``.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    accepts: frozenset[Kind]
    claims: tuple[Claim, ...] = ()
    ignore_index: int = -100
    denominator: Callable[[Tensor], Tensor] | None = None
    each: Callable[[Tensor, Tensor], Tensor] | None = None
    classes: int | None = None
    outputs: OutputKind | None = None
    settings: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check every argument."""
        instance("name", self.name, str, "'my_loss'")
        function("function", self.function, optional=False)
        function("denominator", self.denominator)
        function("each", self.each)
        kinds = self.accepts if isinstance(self.accepts, Set) else frozenset[Kind]()
        if not kinds or not all(isinstance(kind, Kind) and kind.field is Field.TARGETS for kind in kinds):
            raise ArgumentError(
                f"accepts is {written(self.accepts)}; it is a set of kinds of targets, such as {{DENSE}}"
            )
        if not isinstance(self.claims, tuple) or not all(isinstance(claim, Claim) for claim in self.claims):
            raise ArgumentError(f"claims is {written(self.claims)}; it is a tuple of claims, such as (SMOOTHING,)")
        if self.outputs is not None:
            instance("outputs", self.outputs, OutputKind, "counterpoint.losses.LOGITS")
        object.__setattr__(self, "accepts", frozenset(kinds))
        object.__setattr__(self, "ignore_index", whole_number("ignore_index", self.ignore_index, low=-MOST))
        if self.classes is not None:
            object.__setattr__(self, "classes", whole_number("classes", self.classes, low=1))


def check_shapes(loss: LossSpec, outputs: object, targets: object, num_classes: int | None) -> None:
    """Raise ``DataError`` for outputs and targets that are not tensors which a loss over classes can compare."""
    if loss.outputs is None or not loss.outputs.class_axis:
        return
    given, wanted = check_tensor("outputs", outputs), check_tensor("targets", targets)
    if given.ndim < 2 or (num_classes is not None and given.shape[1] != num_classes):
        classes = "C" if num_classes is None else num_classes
        raise DataError(
            f"the loss {loss.name} takes outputs of shape (N, {classes}, ...), and these have {tuple(given.shape)}: "
            "give the model as many outputs as there are classes, and state that number as num_classes"
        )
    indices = not wanted.is_floating_point()
    expected = (given.shape[0], *given.shape[2:]) if indices else tuple(given.shape)
    if wanted.shape != expected:
        raise DataError(
            f"the loss {loss.name} takes targets of shape {expected} for outputs of shape {tuple(given.shape)}, and "
            f"these have {tuple(wanted.shape)}"
        )
    if indices and wanted.device.type == "cpu":
        check_classes(wanted.long(), given.shape[1], loss.ignore_index)


def check_values(loss: LossSpec, outputs: object) -> None:
    """Raise ``DataError`` for outputs that are not what a loss takes; values are looked at on the CPU only."""
    if loss.outputs is None or not isinstance(outputs, Tensor):
        return
    if outputs.device.type != "cpu" or not outputs.is_floating_point():
        return
    with torch.no_grad():
        wrong = loss.outputs.wrong(outputs.detach())
    if wrong:
        raise DataError(f"the loss {loss.name} takes {loss.outputs.name}, and {wrong}: {loss.outputs.fix}")
