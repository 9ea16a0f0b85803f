"""Describe the loss that a user passes to ``compose``, or return all of its faults with their fixes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pydantic
from pydantic_core import ErrorDetails
from torch import Tensor, nn

from counterpoint.core import Facts, Fault, LossSpec, Terms
from counterpoint.core.arguments import written
from counterpoint.core.check.catalog import Catalog
from counterpoint.core.check.settings import allowed_value
from counterpoint.core.declare.kinds import INDEX, TARGET_KINDS, Kind, Task
from counterpoint.core.errors import ConfigError, PluginError, UnknownNameError, close_to, nearest
from counterpoint.core.remedies import Decide, State, Way
from counterpoint.losses import resolve_loss
from counterpoint.plugins import LOSSES

__all__ = ["Loss", "loss_of"]

Loss = nn.Module | Callable[[Tensor, Tensor], Tensor] | LossSpec | str | Mapping[str, Any]
Others = Callable[[], tuple[Way, ...]]
"""Returns the changes to each registered loss that is right for the task."""


def loss_of(
    given: Loss | None,
    accepts: Collection[str | Kind] | None,
    facts: Facts,
    catalog: Catalog,
    terms: Terms,
    faults: list[Fault],
) -> LossSpec | None:
    """Describe the loss that is given to ``compose``; ``faults`` grows by what is wrong with it."""
    if given is None:
        if accepts is not None:
            message = "loss_accepts says which targets a loss is right for, and there is no loss"
            faults.append(Fault("bad-argument", message, ways=((State({"loss_accepts": None}),),)))
        return None

    def others() -> tuple[Way, ...]:
        return tuple((State({"loss": name}),) for name in catalog.losses_for(facts.task.targets))

    spec = _described(given, accepts, facts.task, others, terms, faults)
    if spec is not None and None not in (spec.classes, facts.num_classes) and spec.classes != facts.num_classes:
        message = f"the loss {spec.name} has weights for {spec.classes} classes, and num_classes is {facts.num_classes}"
        fix = f"give it {facts.num_classes} weights, one for each class"
        faults.append(Fault("bad-setting", message, ways=((Decide(fix),),)))
    return spec


def _described(
    given: Loss,
    accepts: Collection[str | Kind] | None,
    task: Task,
    others: Others,
    terms: Terms,
    faults: list[Fault],
) -> LossSpec | None:
    """Describe the loss, or report what is wrong with its name, its settings or ``loss_accepts``."""
    loss = _built(given, others, faults) if isinstance(given, str | Mapping) else given
    if loss is None:
        return None
    try:
        spec = resolve_loss(loss)
    except ConfigError as error:
        fix = "give a registered name, a module or a function of outputs and targets, with settings that it allows"
        faults.append(Fault("bad-setting", f"loss: {error}", ways=(*others(), (Decide(fix),))))
        return None
    if accepts is not None:
        try:
            return resolve_loss(loss, accepts=accepts)
        except ConfigError as error:
            kinds = {kind.name for kind in (TARGET_KINDS if spec is None else spec.accepts)}
            fix = f"name kinds of targets that it is right for, of {terms.setting('loss_accepts', terms.word(kinds))}"
            ways = ((State({"loss_accepts": None}),), *_said(task, kinds), (Decide(fix),))
            faults.append(Fault("bad-setting", str(error), ways=ways))
            return spec
    if spec is None:
        name = (
            type(loss).__name__ if isinstance(loss, nn.Module) else str(getattr(loss, "__name__", type(loss).__name__))
        )
        message = (
            f"the loss {name} does not say which targets it accepts, and running it cannot tell whether it is right"
        )
        known = {kind.name for kind in TARGET_KINDS}
        ways = (*_said(task, known), *others(), (Decide(_specified(given, terms)),))
        faults.append(Fault("loss-unknown", message, algorithms=(name,), ways=ways))
    return spec


def _specified(given: Loss, terms: Terms) -> str:
    """Say who describes a loss: a registered one its own class, as every one in a config; any other the caller."""
    if isinstance(given, str | Mapping) or terms is Terms.YAML:
        return "let its `build` return a counterpoint.LossSpec, which says so"
    return "name the kinds of targets that it is right for in loss_accepts, or pass a counterpoint.LossSpec"


def _said(task: Task, known: Collection[str]) -> tuple[Way, ...]:
    """Return what may be said of the targets for which a loss is right: those of the task."""
    kinds = {"index", "dense"} if task.targets == INDEX else {task.targets.name}
    return ((State({"loss_accepts": kinds & {*known}}),),) if kinds & {*known} else ()


def _built(given: str | Mapping[str, Any], others: Others, faults: list[Fault]) -> nn.Module | None:
    """Build a registered loss, or say what is wrong with its name or with each of its settings."""
    settings = {"name": given} if isinstance(given, str) else dict(given)
    name = settings.pop("name", None)
    choice = (Decide(f"write another of {', '.join(sorted(LOSSES.names()))}"),)
    if not isinstance(name, str):
        faults.append(Fault("bad-setting", f"loss: {written(given)} does not name a loss", ways=(*others(), choice)))
        return None
    try:
        config = LOSSES.load(name)
    except PluginError as error:
        code = "bad-setting" if isinstance(error, UnknownNameError) else "broken-plugin"
        meant = tuple((State({"loss": {"name": close, **settings}}),) for close in close_to(name, LOSSES.names()))
        faults.append(Fault(code, f"loss: {error}", ways=(*meant, *others(), choice)))
        return None
    try:
        loss: nn.Module = config.model_validate(settings).build()
    except pydantic.ValidationError as error:
        details = error.errors(include_url=False)
        faults += [_setting_fault(name, settings, config, detail, others) for detail in details]
        return None
    return loss


def _setting_fault(
    name: str,
    settings: Mapping[str, Any],
    config: type[pydantic.BaseModel],
    detail: ErrorDetails,
    others: Others,
) -> Fault:
    """Say of one setting of a registered loss what it is and what it may be."""
    key = str(detail["loc"][0]) if detail["loc"] else ""
    rest = {other: value for other, value in settings.items() if other != key}
    out: Way = (State({"loss": {"name": name, **rest}}),)
    if detail["type"] == "extra_forbidden":
        close = close_to(key, config.model_fields)
        renamed = tuple((State({"loss": {"name": name, **rest, other: settings[key]}}),) for other in close)
        message = f"loss ({name}): there is no setting {key!r}{nearest(key, config.model_fields)}"
        return Fault("bad-setting", message, ways=(*renamed, out, *others()))
    path = ".".join(map(str, detail["loc"])) or "its settings"
    must = detail["msg"].replace("Input should", "it must", 1)
    said = "missing" if detail["type"] == "missing" else f"{written(detail['input'])}; {must}"
    message = f"loss ({name}): {path} is {said}"
    allowed = Decide(allowed_value(config, detail["loc"], path))
    return Fault("bad-setting", message, ways=(out, *others(), (allowed,)))
