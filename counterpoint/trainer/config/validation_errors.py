"""From pydantic's validation errors to faults in the user's terms: key, value, what is allowed, and the fix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.check.fixes.wording import word
from counterpoint.core.check.members import FIX_PACKAGE, OTHER_NAME, named
from counterpoint.core.check.settings import far_limit, settings_of
from counterpoint.core.errors import ConfigError, nearest
from counterpoint.core.faults import Fault
from counterpoint.core.remedies import Decide, Way, Write
from counterpoint.trainer.config.components import BROKEN_PLUGIN, NO_COMPONENT, ROLES, UNKNOWN_NAME, Table
from counterpoint.trainer.config.fixes import Trial
from counterpoint.trainer.config.places import Owner, Place, owner_of, place_of

__all__ = ["config_error", "explain", "plain_fault", "setting_error"]

_MOST, _LONGEST = 50, 100
WAYS = {
    UNKNOWN_NAME: ("unknown-algorithm", ""),
    BROKEN_PLUGIN: ("broken-plugin", FIX_PACKAGE),
    NO_COMPONENT: ("not-an-algorithm", "write a name, or a mapping with `name` and its settings"),
}
"""The types of errors about components: the code of the fault in a list of algorithms, and the fix."""


def explain(
    error: ValidationError, config: type[BaseModel], tree: Mapping[str, Any], source: str, overrides: Sequence[str] = ()
) -> ConfigError:
    """Return the ``ConfigError`` that lists every fault of a config at once.

    ``tree`` is what was validated as ``config``, read from ``source`` and edited by ``overrides``.
    """
    found = error.errors(include_url=False)
    causes = [details for details in found if not _follows(details, found)]
    trial = Trial(config, tree, found) if len(causes) <= _MOST else None
    faults = list(dict.fromkeys(_fault(details, config, tree, overrides, trial) for details in causes[:_MOST]))
    if len(causes) > _MOST:
        faults.append(Fault("bad-setting", f"{len(causes) - _MOST} faults more", "see to those above, and check again"))
    return config_error(source, faults)


def config_error(source: str, faults: Sequence[Fault]) -> ConfigError:
    """Return the ``ConfigError`` that says all that is wrong with a config, each fault with its code and its fix.

    >>> print(config_error("run.yaml", [Fault("bad-setting", "sed = 3: there is no such key", "did you mean 'seed'?")]))
    run.yaml: 1 fault in the config:
      [bad-setting] sed = 3: there is no such key
        fix: did you mean 'seed'?
    """
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return ConfigError("\n  ".join([f"{source}: {count} in the config:", *map(str, faults)]), faults)


def plain_fault(message: str, *ways: Way) -> Fault:
    """Return the fault of a config that a message states: the reason, and after a semicolon the fix.

    ``ways`` are the fixes that a program can make; without any, a person decides.

    >>> print(plain_fault("data.root: 'pictures' does not exist; it must hold one folder for each class"))
    [bad-config] data.root: 'pictures' does not exist
        fix: it must hold one folder for each class
    """
    reason, _, way = message.partition("; ")
    fix = way or "change what is named there"
    return Fault("bad-config", reason, fix, remedies=ways[0] if ways else (), ways=(*ways, (Decide(fix),)))


def setting_error(message: str, *ways: Way) -> ConfigError:
    """Return the error of a config that does not fit its data, its model or the machine, with its fixes as data."""
    return ConfigError(message, (plain_fault(message, *ways),))


def _follows(details: ErrorDetails, found: Sequence[ErrorDetails]) -> bool:
    """Whether a list is only found too short because its items are at fault."""
    place = details["loc"]
    inner = (other["loc"] for other in found if len(other["loc"]) > len(place))
    return details["type"] == "too_short" and any(other[: len(place)] == place for other in inner)


def _fault(
    details: ErrorDetails,
    config: type[BaseModel],
    tree: Mapping[str, Any],
    overrides: Sequence[str],
    trial: Trial | None,
) -> Fault:
    place = place_of(details, tree)
    key = ".".join(map(_plain, place))
    value = "" if details["type"] in ("missing", "invalid_key") else _shown(details["input"])
    code, said, fix = _told(details, place, owner_of(place, config, tree))
    listed = tree["algorithms"] if place[0] == "algorithms" and len(place) > 1 else []
    parties = tuple(named([listed[int(place[1])]])) if listed else ()
    fault = Fault(code, f"{key}{value}{_origin(key, overrides)}: {said}", fix, parties)
    return fault if trial is None else _with_remedies(fault, trial.fix(details))


def _with_remedies(fault: Fault, way: Way | None) -> Fault:
    """Return a fault whose fix is data, too; what no program can change is left to a person."""
    if way is None:
        return replace(fault, ways=((Decide(fault.fix),),))
    text = word(way, (), Terms.YAML)
    same = len(way) == 1 and isinstance(way[0], Write) and _says(fault.fix, way[0].value)
    renames = len(way) == 2 and isinstance(way[0], Write) and fault.fix.startswith("did you mean")
    joint = "; " if fault.fix.startswith(("did you mean", "known")) else ", or "
    fix = fault.fix if same or renames else f"{text}{joint}{fault.fix}"
    return replace(fault, fix=fix, remedies=way, ways=(way, (Decide(fault.fix),)))


def _says(fix: str, value: object) -> bool:
    """Whether a fix names a value already."""
    return re.search(rf"(?<![\w.]){re.escape(Terms.YAML.plain(value))}(?![\w.])", fix) is not None


def _told(details: ErrorDetails, place: Place, owner: Owner) -> tuple[str, str, str]:
    """Return the code of a fault, what is wrong, and the fix."""
    role, kind = str(place[0]), details["type"]
    setting = settings_of(owner.settings).get(str(place[owner.depth])) if owner.depth == len(place) - 1 else None
    if kind in ("extra_forbidden", "invalid_key"):
        noun, more = ("setting", ["name"]) if owner.depth else ("key", [])
        close = nearest(str(place[-1]), [*owner.settings.model_fields, *more])
        return "bad-setting", f"there is no such {noun}", close.removeprefix("; ")
    if kind in WAYS:
        code, way = WAYS[kind]
        anywhere = code == "broken-plugin" or role == "algorithms"
        return code if anywhere else "bad-setting", details["msg"], way or _names(role)
    if kind == "missing":
        return "bad-setting", "is missing", f"write {setting.allowed}" if setting else "write it"
    if far := far_limit(details.get("ctx", {})):
        return "bad-setting", "is not allowed", f"write a number {far}"
    fix = f"write {setting}" if setting else f"write what is allowed; {_help(owner.name, role)}"
    if kind == "value_error":
        reason, _, way = details["msg"].removeprefix("Value error, ").partition("; ")
        return "bad-setting", reason, way or fix
    return "bad-setting", "is not allowed" if setting else details["msg"].replace("Input should", "must", 1), fix


def _names(role: str) -> str:
    """Say which names a role has."""
    names = ROLES[role]
    return f"write one of {', '.join(names.names())}" if isinstance(names, Table) else OTHER_NAME


def _help(name: str, role: str) -> str:
    """Say where the settings of a component are explained, or those of the config itself, whose name is empty."""
    shown = name and not isinstance(ROLES[role], Table)
    return f"`counterpoint show {name}` lists the settings" if shown else "`counterpoint schema` has every key"


def _shown(value: object) -> str:
    """Word a single value as YAML writes it."""
    if isinstance(value, float) and not math.isfinite(value):
        return f" = {'-' if value < 0 else ''}.{'nan' if math.isnan(value) else 'inf'}"
    if value is None or isinstance(value, bool | int | float | str):
        text = json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())
        return f" = {text}" if len(text) <= _LONGEST else f" = {text[:_LONGEST]}... ({len(text)} characters)"
    return ""


def _plain(part: object) -> str:
    """Word a part of a key on one line."""
    text = str(part) if str(part).isprintable() else ascii(part)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _origin(key: str, overrides: Sequence[str]) -> str:
    """Name the override that set a key, or that made it up."""
    for override in reversed(overrides):
        written = override.partition("=")[0]
        if key == written or key.startswith(f"{written}.") or written.startswith(f"{key}."):
            return f" (from the override {override!r})"
    return ""
