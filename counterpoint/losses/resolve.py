"""Describe a user's loss for the checker."""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace
from importlib import import_module
from typing import TypeAlias

import torch
from torch import Tensor, nn

from counterpoint.core.arguments import written
from counterpoint.core.declare.kinds import TARGET_KINDS, Field, Kind, names
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.errors import ConfigError, nearest
from counterpoint.core.plan.digest import described
from counterpoint.losses.known import KnownLoss

__all__ = ["Loss", "known_losses", "resolve_loss"]

Loss: TypeAlias = LossSpec | Callable[[Tensor, Tensor], Tensor]
"""What may be given as a loss: a description of one, a module, or any function of outputs and targets."""


@functools.cache
def known_losses() -> Mapping[type[nn.Module], KnownLoss]:
    """Return every known loss by the exact type of its module: what the files of this package list in ``KNOWN``.

    A subclass may compute anything, so it is not known.
    """
    package = import_module("counterpoint.losses")
    files = [import_module(f"{package.__name__}.{file.name}") for file in pkgutil.iter_modules(package.__path__)]
    return {known.module: known for file in files for known in getattr(file, "KNOWN", ())}


def resolve_loss(loss: Loss, *, accepts: Collection[str | Kind] | None = None) -> LossSpec | None:
    """Describe a loss, or return ``None`` if it is unknown and ``accepts`` is not given.

    Known are, by exact type, the modules of ``known_losses()``, and the functions that compute the same, bare or in a
    ``functools.partial`` with settings. They run in a form that is exact for every kind they accept; ``accepts`` can
    take kinds away from them, but adds none. Any other callable runs as it is, for the kinds that ``accepts`` names.
    Where a batch is run in parts, it is taken to be a mean over samples; give a ``LossSpec`` for a loss that is not, or
    that smooths targets itself.

    Args:
        loss: a ``LossSpec``, a module, or a callable of outputs and targets.
        accepts: names of target kinds (``"index"``, ``"dense"``, ``"multi_hot"``, ``"continuous"``), or kinds.

    Raises:
        ConfigError: ``accepts`` is empty, holds something that is not a target kind, or names a kind that a known
            loss does not accept. Also if ``loss`` is a class or not callable, or has a setting out of range.

    >>> from torch.nn import functional
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
    known = None if module is None else known_losses().get(type(module))
    return None if known is None or module is None else replace(known.spec(module), settings=described(module))


def _module_of(loss: Callable[..., Tensor]) -> nn.Module | None:
    """Build the module that computes what a known function does, with the settings that a partial binds."""
    bound = loss if isinstance(loss, functools.partial) else functools.partial(loss)
    rows = known_losses().values()
    module = next((row.module for row in rows if any(same is bound.func for same in row.functions)), None)
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
