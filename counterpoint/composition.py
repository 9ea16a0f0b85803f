"""Compose methods by their registered names, with losses that are known by their modules."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pydantic

from counterpoint.core import Duration, Fault, Plan, Terms
from counterpoint.core import compose as check_composition
from counterpoint.core.check.catalog import Catalog
from counterpoint.core.check.fixes.advice import Check, advise
from counterpoint.core.check.statements import stated
from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.kinds import IMAGE, Kind, Task
from counterpoint.core.errors import CompositionError, ConfigError, PluginError
from counterpoint.loss_argument import Loss, loss_of
from counterpoint.losses import resolve_loss
from counterpoint.plugins import ALGORITHMS, LOSSES, Registry

__all__ = ["compose"]

Loaded = TypeVar("Loaded")


def compose(
    algorithms: Sequence[object],
    *,
    loss: Loss | None = None,
    loss_accepts: Collection[str | Kind] | None = None,
    task: str | Task | None = None,
    num_classes: int | None = None,
    inputs: str | Kind = IMAGE,
    batch_size: int | None = None,
    steps_per_epoch: int | None = None,
    max_duration: str | Duration | None = None,
    seed: int = 0,
    strict_order: bool = False,
    compile: bool = False,
    model_inputs: Collection[str | Kind] | None = None,
    microbatches: int = 1,
    contract: str = "first_steps",
    terms: Terms = Terms.PYTHON,
) -> Plan:
    """Check that methods fit each other, the data and the loss, order them, and return the plan.

    Args:
        algorithms: Instances, registered names, or mappings with ``name`` and settings.
        loss: A module, a callable of (outputs, targets), a registered name or mapping, or ``None`` for a plan without.
        loss_accepts: For your own loss, the kinds of target that it accepts, such as ``{"index", "dense"}``.
        task: ``multiclass``, ``segmentation``, ``multilabel`` or ``regression``; it is never guessed.
        num_classes: Number of classes, needed where targets must become dense.
        inputs: ``image``, ``bytes``, ``unit``, ``normalized``, ``features`` or ``tokens``.
        batch_size: Samples in a device batch; needed by methods that count samples.
        steps_per_epoch: Device batches in an epoch; needed where a method counts epochs.
        max_duration: Length of the run; needed where a method counts shares of it.
        seed: Key of every draw.
        strict_order: Whether an order that only the list decides is a fault.
        compile: Whether the batch steps are compiled into one function, at their first batches.
        model_inputs: Kinds of inputs that the model takes; by default any but raw bytes.
        microbatches: Number of parts into which the loop splits a device batch.
        contract: When steps are checked against their declarations: ``off``, ``first_steps`` (of a run, and after every
            start, also to resume one) or ``always`` (with checksums).
        terms: Whether fixes are worded as Python or as lines of a config.

    Raises:
        CompositionError: With every fault at once.

    >>> import torch, counterpoint as cp
    >>> plan = cp.compose(["mixup", {"name": "label_smoothing", "smoothing": 0.1}],
    ...                   loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=10)
    >>> plan.order
    ('dense_targets', 'label_smoothing', 'mixup')
    """
    given = {key: value for key, value in locals().items() if key != "algorithms"}
    check = functools.partial(_checked, resolve=ALGORITHMS.loader(), catalog=_catalog())
    try:
        return check(algorithms, given)
    except CompositionError as error:
        worded = terms if isinstance(terms, Terms) else Terms.PYTHON
        raise CompositionError(advise(error.faults, _items(algorithms), given, _faults_by(check), worded)) from None


def _items(algorithms: object) -> tuple[object, ...]:
    """Return the items of the list; none if it is not a list."""
    listed = isinstance(algorithms, Sequence) and not isinstance(algorithms, str | bytes | bytearray)
    return tuple(algorithms) if listed and isinstance(algorithms, Sequence) else ()


def _faults_by(check: Callable[[Sequence[object], Mapping[str, Any]], Plan]) -> Check:
    """Return the function that finds the faults of a changed composition."""

    def faults(algorithms: Sequence[object], given: Mapping[str, Any]) -> tuple[Fault, ...]:
        try:
            check(algorithms, {**given, "compile": False})
        except CompositionError as error:
            return error.faults
        return ()

    return faults


def _checked(
    algorithms: Sequence[object],
    given: Mapping[str, Any],
    *,
    resolve: Callable[[str], type[Algorithm[Any]]],
    catalog: Catalog,
) -> Plan:
    """Return the plan of a list under the facts that are given, by the names of ``compose``'s arguments."""
    others = {key: value for key, value in given.items() if key not in ("loss", "loss_accepts")}
    statements, faults = stated({"algorithms": algorithms, **others})
    facts = statements.facts(faults)
    terms = statements.terms
    return check_composition(
        statements.algorithms,
        resolve=resolve,
        facts=facts,
        loss=loss_of(given["loss"], given["loss_accepts"], facts, catalog, terms, faults),
        strict_order=statements.strict_order,
        contract=statements.contract,
        backend="inductor" if statements.compile else None,
        terms=terms,
        catalog=catalog,
        faults=faults,
    )


def _catalog() -> Catalog:
    """Return the registered names for fixes, without those that cannot be loaded."""
    return Catalog("one_of", ALGORITHMS.names, lambda: _loaded(ALGORITHMS).values(), _accepted)


def _loaded(registry: Registry[Loaded]) -> dict[str, Loaded]:
    found = {}
    load = registry.loader()
    for name in registry.names():
        with suppress(PluginError):
            found[name] = load(name)
    return found


def _accepted() -> dict[str, frozenset[Kind]]:
    """Return the kinds of target that each registered loss accepts with its default settings."""
    found = {}
    for name, config in _loaded(LOSSES).items():
        with suppress(pydantic.ValidationError, ConfigError):
            spec = resolve_loss(config().build())
            if spec is not None:
                found[name] = spec.accepts
    return found
