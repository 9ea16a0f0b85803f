"""The checker bound to what is installed: names come from the registry, losses are known by their modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic_core import ErrorDetails
from torch import Tensor, nn

from counterpoint.core import Duration, Fault, LossSpec, Plan, Terms
from counterpoint.core import compose as check
from counterpoint.core.arguments import written
from counterpoint.core.errors import ConfigError, PluginError, UnknownNameError, nearest
from counterpoint.core.kinds import IMAGE, TARGET_KINDS, Kind, Task
from counterpoint.core.statements import stated
from counterpoint.losses import resolve_loss
from counterpoint.plugins import ALGORITHMS, LOSSES

if TYPE_CHECKING:
    from counterpoint.core.compiled import Compiled

__all__ = ["compose"]

Loss = nn.Module | Callable[[Tensor, Tensor], Tensor] | LossSpec | str | Mapping[str, Any]


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
        loss_accepts: For a loss of one's own, the kinds of target it is right for, as ``{"index", "dense"}``.
        task: ``multiclass``, ``segmentation``, ``multilabel`` or ``regression``; it is never guessed.
        num_classes: Number of classes, needed where targets must become dense.
        inputs: ``image``, ``bytes``, ``unit``, ``normalized``, ``features`` or ``tokens``.
        batch_size: Samples in a device batch; needed by what counts them.
        steps_per_epoch: Device batches in an epoch; needed where a method counts epochs.
        max_duration: Length of the run; needed where a method counts shares of it.
        seed: Key of every draw.
        strict_order: Whether an order that only the list decides is a fault.
        compile: Whether the batch steps are compiled into one function, at their first batches.
        model_inputs: Kinds of inputs that the model takes; by default any but raw bytes.
        microbatches: Number of parts into which the loop splits a device batch.
        contract: When steps are held to what they declare: ``off``, ``first_steps`` (of a run, and after every start,
            also to resume one) or ``always`` (with checksums).
        terms: Whether fixes are worded as Python or as lines of a config.

    Raises:
        CompositionError: With every fault at once.

    >>> import torch, counterpoint as cp
    >>> plan = cp.compose(["mixup", {"name": "label_smoothing", "smoothing": 0.1}],
    ...                   loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=10)
    >>> plan.order
    ('dense_targets', 'label_smoothing', 'mixup')
    """
    given = {key: value for key, value in locals().items() if key not in ("loss", "loss_accepts")}
    statements, faults = stated(given)
    facts = statements.facts(faults)
    return check(
        statements.algorithms,
        resolve=ALGORITHMS.loader(),
        facts=facts,
        loss=_loss(loss, loss_accepts, facts.num_classes, statements.terms, faults),
        strict_order=statements.strict_order,
        contract=statements.contract,
        compiled=_compiled() if statements.compile else None,
        terms=statements.terms,
        choice="one_of",
        faults=faults,
    )


def _compiled() -> Compiled:
    from counterpoint.core.compiled import Compiled  # few plans are compiled, and the others do without it

    return Compiled()


def _loss(
    given: Loss | None,
    accepts: Collection[str | Kind] | None,
    num_classes: int | None,
    terms: Terms,
    faults: list[Fault],
) -> LossSpec | None:
    if given is None:
        if accepts is not None:
            message = "loss_accepts says which targets a loss is right for, and there is no loss"
            faults.append(Fault("bad-argument", message, "give compose a loss, or leave loss_accepts out"))
        return None
    found: list[Fault] = []
    spec = _described(given, accepts, terms, found)
    faults += found
    if spec is not None and None not in (spec.classes, num_classes) and spec.classes != num_classes:
        message = f"the loss {spec.name} has weights for {spec.classes} classes, and num_classes is {num_classes}"
        faults.append(Fault("bad-setting", message, f"give it {num_classes} weights, one for each class"))
    return spec


def _described(
    given: Loss, accepts: Collection[str | Kind] | None, terms: Terms, faults: list[Fault]
) -> LossSpec | None:
    """Describe the loss, or say why that cannot be done: its name, its settings, or what it is said to accept."""
    loss = _built(given, terms, faults) if isinstance(given, str | Mapping) else given
    if loss is None:
        return None
    try:
        spec = resolve_loss(loss)
    except ConfigError as error:
        fix = "give a registered name, a module or a function of outputs and targets, with settings that it allows"
        faults.append(Fault("bad-setting", f"loss: {error}", fix))
        return None
    if accepts is not None:
        try:
            return resolve_loss(loss, accepts=accepts)
        except ConfigError as error:
            kinds = terms.word({kind.name for kind in (TARGET_KINDS if spec is None else spec.accepts)})
            fix = f"name kinds of targets that it is right for, of {terms.setting('loss_accepts', kinds)}"
            faults.append(Fault("bad-setting", str(error), fix))
            return spec
    if spec is None:
        name = (
            type(loss).__name__ if isinstance(loss, nn.Module) else str(getattr(loss, "__name__", type(loss).__name__))
        )
        message = (
            f"the loss {name} does not say which targets it accepts, and running it cannot tell whether it is right"
        )
        fix = "say so: loss_accepts={'dense', 'index'}, with the kinds it is right for"
        if terms is Terms.YAML:
            fix = "use another loss, or let its `build` return a counterpoint.LossSpec, which says so"
        faults.append(Fault("loss-unknown", message, fix, (name,)))
    return spec


def _built(given: str | Mapping[str, Any], terms: Terms, faults: list[Fault]) -> nn.Module | None:
    """Build a registered loss, or say what is wrong with its name or with each of its settings."""
    settings = {"name": given} if isinstance(given, str) else dict(given)
    name = settings.pop("name", None)
    fix = f"state {terms.text('loss', 'cross_entropy')}, or another of {', '.join(sorted(LOSSES.names()))}"
    if not isinstance(name, str):
        faults.append(Fault("bad-setting", f"loss: {written(given)} does not name a loss", fix))
        return None
    try:
        config = LOSSES.load(name)
    except PluginError as error:
        code = "bad-setting" if isinstance(error, UnknownNameError) else "broken-plugin"
        faults.append(Fault(code, f"loss: {error}", fix))
        return None
    try:
        loss: nn.Module = config.model_validate(settings).build()
    except pydantic.ValidationError as error:
        faults += [_setting_fault(name, config, detail) for detail in error.errors(include_url=False)]
        return None
    return loss


def _setting_fault(name: str, config: type[pydantic.BaseModel], detail: ErrorDetails) -> Fault:
    """Say of one setting of a registered loss what it is and what it may be."""
    key = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(key, config.model_fields, n=1)
        fix = f"write {close[0]!r}" if close else "leave it out"
        return Fault(
            "bad-setting", f"loss ({name}): there is no setting {key!r}{nearest(key, config.model_fields)}", fix
        )
    path = ".".join(map(str, detail["loc"]))
    meaning = config.model_fields[key].description if key in config.model_fields else None
    must = detail["msg"].replace("Input should", "it must", 1)
    fix = f"give {key} an allowed value{f': {meaning}' if meaning else ''}"
    return Fault("bad-setting", f"loss ({name}): {path} is {written(detail['input'])}; {must}", fix)
