"""Describe a user's loss for the checker."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from counterpoint.core.arguments import written
from counterpoint.core.declare.kinds import TARGET_KINDS, Field, Kind, names
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.errors import ConfigError, nearest
from counterpoint.core.plan.digest import described
from counterpoint.losses import binary, cross_entropy, focal, kl, nll, regression

__all__ = ["Loss", "resolve_loss"]

Loss: TypeAlias = LossSpec | Callable[[Tensor, Tensor], Tensor]
"""What may be given as a loss: a description of one, a module, or any function of outputs and targets."""

# The exact type of a module, and how to describe it. A subclass may compute anything, so it is not known.
MODULES: dict[type[nn.Module], Callable[[Any], LossSpec]] = {
    nn.CrossEntropyLoss: cross_entropy.spec_of,
    nn.BCEWithLogitsLoss: binary.spec_of_logits,
    binary.ThresholdedBCEWithLogitsLoss: binary.spec_of_logits,
    nn.BCELoss: binary.spec_of_probabilities,
    nn.NLLLoss: nll.spec_of,
    nn.KLDivLoss: kl.spec_of,
    nn.MSELoss: regression.spec_of_squared,
    nn.L1Loss: regression.spec_of_absolute,
    focal.FocalLoss: focal.spec_of,
    focal.BinaryFocalLoss: focal.spec_of_binary,
}

# A function, and the module that takes the same settings and computes the same.
FUNCTIONS: tuple[tuple[Callable[..., Tensor], type[nn.Module]], ...] = (
    (functional.cross_entropy, nn.CrossEntropyLoss),
    (cross_entropy.cross_entropy, nn.CrossEntropyLoss),
    (functional.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss),
    (functional.binary_cross_entropy, nn.BCELoss),
    (functional.nll_loss, nn.NLLLoss),
    (functional.kl_div, nn.KLDivLoss),
    (functional.mse_loss, nn.MSELoss),
    (functional.l1_loss, nn.L1Loss),
    (focal.focal_loss, focal.FocalLoss),
    (focal.binary_focal_loss, focal.BinaryFocalLoss),
)


def resolve_loss(loss: Loss, *, accepts: Collection[str | Kind] | None = None) -> LossSpec | None:
    """Describe a loss, or return ``None`` if it is unknown and ``accepts`` is not given.

    Known are, by exact type, ``torch.nn``'s ``CrossEntropyLoss``, ``NLLLoss``, ``BCEWithLogitsLoss``, ``BCELoss``,
    ``KLDivLoss``, ``MSELoss`` and ``L1Loss``, this package's ``FocalLoss``, ``BinaryFocalLoss`` and
    ``ThresholdedBCEWithLogitsLoss``, and the functions that compute the same, bare or in a ``functools.partial`` with
    settings. They run in a form that is exact for every kind they accept; ``accepts`` can take kinds away from them,
    but adds none. Any other callable runs as it is, for the kinds that ``accepts`` names. Where a batch is run in
    parts, it is taken to be a mean over samples; give a ``LossSpec`` for a loss that is not, or that smooths targets
    itself.

    Args:
        loss: a ``LossSpec``, a module, or a callable of outputs and targets.
        accepts: names of target kinds (``"index"``, ``"dense"``, ``"multi_hot"``, ``"continuous"``), or kinds.

    Raises:
        ConfigError: ``accepts`` is empty, holds something that is not a target kind, or names a kind that a known
            loss does not accept. Also if ``loss`` is a class or not callable, or has a setting out of range.

    >>> resolve_loss(nn.MSELoss()).accepts == resolve_loss(functional.mse_loss).accepts
    True
    >>> def my_loss(outputs, targets):
    ...     return -(targets * outputs.log_softmax(1)).sum(1).mean()
    >>> resolve_loss(my_loss) is None
    True
    >>> [kind.name for kind in resolve_loss(my_loss, accepts={"dense"}).accepts]
    ['dense']
    """
    kinds = None if accepts is None else _target_kinds(accepts)
    if isinstance(loss, LossSpec):
        return loss if kinds is None else _narrowed(loss, kinds)
    _require_callable(loss)
    known = _known(loss)
    if known is not None:
        return known if kinds is None else _narrowed(known, kinds)
    if kinds is None:
        return None
    name = _qualified_name(loss)
    return LossSpec(name, loss, accepts=kinds, denominator=_sample_count, settings=described(loss))


def _require_callable(loss: object) -> None:
    if isinstance(loss, type):
        raise ConfigError(f"the loss is the class {loss.__name__}, not a loss; write {loss.__name__}()")
    if not callable(loss):
        raise ConfigError(f"the loss is {written(loss)}; give a module, or a function of outputs and targets")


def _known(loss: Callable[..., Tensor]) -> LossSpec | None:
    """Describe a module or function of torch's; ``None`` for any other."""
    module = loss if isinstance(loss, nn.Module) else _module_of(loss)
    describe = MODULES.get(type(module)) if module is not None else None
    return None if describe is None else replace(describe(module), settings=described(module))


def _module_of(loss: Callable[..., Tensor]) -> nn.Module | None:
    """Build the module that computes what a known function does, with the settings that a partial binds."""
    bound = loss if isinstance(loss, functools.partial) else functools.partial(loss)
    module = next((module for function, module in FUNCTIONS if function is bound.func), None)
    if module is None or bound.args or not bound.keywords.keys() <= inspect.signature(module).parameters.keys():
        return None
    try:
        return module(**bound.keywords)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{_qualified_name(loss)} cannot have the settings {written(bound.keywords)}: {error}"
        ) from None


def _target_kinds(accepts: Collection[str | Kind]) -> frozenset[Kind]:
    if isinstance(accepts, str):
        raise ConfigError(f"loss_accepts is the text {accepts!r}; it is a set of kinds: write {{{accepts!r}}}")
    if not isinstance(accepts, Set | Sequence | Mapping):
        raise ConfigError(f"loss_accepts is {written(accepts)}; it is a set of kinds, of {names(TARGET_KINDS)}")
    if not accepts:
        raise ConfigError(f"loss_accepts is empty; name what the loss is right for, of {names(TARGET_KINDS)}")
    return frozenset(map(_target_kind, accepts))


def _target_kind(word: str | Kind) -> Kind:
    if isinstance(word, Kind):
        if word.field is not Field.TARGETS:
            raise ConfigError(f"loss_accepts holds {word.name!r}, a kind of {word.field.value}; name kinds of targets")
        return word
    known = {kind.name: kind for kind in TARGET_KINDS}
    if not isinstance(word, str) or word not in known:
        near = nearest(word if isinstance(word, str) else "", known)
        raise ConfigError(f"loss_accepts holds {written(word)}, which is no kind of target{near}")
    return known[word]


def _narrowed(spec: LossSpec, kinds: frozenset[Kind]) -> LossSpec:
    """Take from a known loss the kinds that the user does not name."""
    extra = kinds - spec.accepts
    if extra:
        raise ConfigError(
            f"loss_accepts names {names(extra)}, but {spec.name} is right for {names(spec.accepts)} only; to run it "
            "as it is on other targets, wrap it in a function of your own"
        )
    return replace(spec, accepts=kinds)


def _qualified_name(loss: Callable[..., Tensor]) -> str:
    """Return ``module.name`` of a function, or of an object's class."""
    if isinstance(loss, functools.partial):
        return _qualified_name(loss.func)
    named = loss if inspect.isroutine(loss) else type(loss)
    return f"{named.__module__}.{named.__qualname__}"


def _sample_count(targets: Tensor) -> Tensor:
    return torch.full((), targets.shape[0], dtype=torch.float32, device=targets.device)
