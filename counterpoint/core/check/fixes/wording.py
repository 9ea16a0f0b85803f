"""Fixes in words: what a user types to make the changes that a fault's remedies describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from counterpoint.core.check.fixes.changes import WISHES, apply_changes, chosen, identity_of, wished
from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.faults import Fault
from counterpoint.core.remedies import (
    Add,
    Choose,
    Decide,
    Drop,
    DropWish,
    Erase,
    Remedy,
    Remove,
    Replace,
    Set,
    State,
    Way,
    Write,
    decides,
)

__all__ = ["CONFIG_KEYS", "as_listed", "in_terms", "word", "worded"]

CONFIG_KEYS = {
    "accumulate": "accumulate",
    "batch_size": "batch_size",
    "loss": "loss",
    "max_duration": "max_duration",
    "microbatches": "accumulate",
    "strict_order": "strict_order",
}
"""The facts that a config states, with the keys that state them; its data and its model state the others."""
_LONGEST = 100
"""The characters of a key that are shown."""
UNSCHEDULED = {"start": "0ba", "end": None, "every": 1, "p": 1.0, "after": (), "before": ()}
"""Settings whose values are the same as leaving them out."""


def worded(fault: Fault, ways: Sequence[Way], listed: Sequence[object], terms: Terms) -> Fault:
    """Return a fault whose fix is these ways, the first of them as data; a pasted choice stands last in the text."""
    pasted = [way for way in ways if any(isinstance(remedy, Choose) for remedy in way)]
    ordered = [way for way in ways if way not in pasted] + pasted
    texts = dict.fromkeys(word(way, listed, terms) for way in ordered)
    return replace(fault, fix=", or ".join(texts), remedies=() if decides(ways[0]) else ways[0])


def in_terms(ways: Sequence[Way], terms: Terms) -> list[Way]:
    """Return the ways that can be gone in these terms: a config does not state what its data and its model do.

    >>> in_terms([(State({"inputs": "unit"}, elsewhere="use unit images"),)], Terms.YAML)
    [(Decide(question='use unit images'),)]
    """
    found: list[Way] = []
    for way in ways:
        outside = [each for each in way if isinstance(each, State) and not each.facts.keys() <= CONFIG_KEYS.keys()]
        if terms is Terms.PYTHON or not outside:
            found.append(way)
        elif outside[0].elsewhere:
            found.append((Decide(outside[0].elsewhere),))
    return list(dict.fromkeys(found))


def word(way: Way, listed: Sequence[object], terms: Terms) -> str:
    """Word changes that are made together to a list.

    >>> word((Drop("ema"), Set("mixup", {"end": "5ba"})), ["ema", "mixup"], Terms.YAML)
    'leave ema out, and set `end: 5ba` of mixup'
    """
    if all(isinstance(remedy, DropWish) for remedy in way):
        wishes = dict.fromkeys(_remedy(remedy, listed, terms).removeprefix("drop ") for remedy in way)
        return f"drop {' and '.join(wishes)}"
    texts: list[str] = []
    for remedy in way:
        texts.append(_remedy(remedy, listed, terms))
        if not isinstance(remedy, Decide | Write | Erase):
            listed, _ = apply_changes(listed, {}, [remedy])
    return ", and ".join(dict.fromkeys(texts))


def _remedy(remedy: Remedy, listed: Sequence[object], terms: Terms) -> str:
    if isinstance(remedy, Decide):
        return remedy.question
    if isinstance(remedy, State):
        return ", and ".join(_fact(key, value, terms) for key, value in remedy.facts.items())
    if isinstance(remedy, Choose):
        return _choice(remedy, listed, terms)
    if isinstance(remedy, Add | Replace | Remove):
        return _item(remedy, terms)
    if isinstance(remedy, Write | Erase):
        return _place(remedy)
    outer, _, inner = remedy.algorithm.rpartition(".")
    if isinstance(remedy, Drop):
        return f"leave {inner} out" + (f" of {outer}" if outer else "")
    if isinstance(remedy, DropWish):
        return f"drop {terms.text(remedy.key, remedy.name)} of {remedy.algorithm}"
    return _settings(remedy, terms)


def _item(remedy: Add | Replace | Remove, terms: Terms) -> str:
    if isinstance(remedy, Add):
        return f"list {_quoted(terms.item(remedy.item), terms)}"
    place = terms.place("algorithms", remedy.position)
    if isinstance(remedy, Remove):
        return f"leave {place} out"
    return f"write {_quoted(terms.item(remedy.item), terms)} as {place}"


def _place(remedy: Write | Erase) -> str:
    """Word a change of a config, always as YAML."""
    words = [part if isinstance(part, int) or part.isprintable() else ascii(part) for part in remedy.path]
    key = Terms.YAML.place(*(part if isinstance(part, int) else part[:_LONGEST] for part in words))
    return f"leave {key} out" if isinstance(remedy, Erase) else f"write `{key}: {Terms.YAML.plain(remedy.value)}`"


def _settings(remedy: Set, terms: Terms) -> str:
    name = remedy.algorithm
    if remedy.settings.keys() == {"id"}:
        return f"give the last {name} an id of its own, as {terms.text('id', remedy.settings['id'])}"
    left = [key for key, value in remedy.settings.items() if key in UNSCHEDULED and value == UNSCHEDULED[key]]
    kept = [_setting(key, value, terms) for key, value in remedy.settings.items() if key not in left]
    parts = [f"set {' and '.join(kept)} of {name}"] if kept else []
    parts += [f"leave {_listing(left)} of {name} out"] if left else []
    return ", and ".join(parts)


def _setting(key: str, value: object, terms: Terms) -> str:
    if isinstance(value, str):
        return terms.text(key, value)
    if isinstance(value, tuple | list):
        inner = ", ".join(map(str if terms is Terms.YAML else repr, value))
        return terms.setting(key, f"[{inner}]")
    return terms.setting(key, terms.word(value) if isinstance(value, bool | set) else str(value))


def _fact(key: str, value: Any, terms: Terms) -> str:
    name = CONFIG_KEYS[key] if terms is Terms.YAML else key
    if value is None:
        return f"leave {name} out"
    where = " of the data" if terms is Terms.YAML and key == "batch_size" else ""
    said = terms.setting(name, terms.item(value)) if isinstance(value, Mapping) else _setting(name, value, terms)
    return f"state {said}{where}"


def _choice(remedy: Choose, listed: Sequence[object], terms: Terms) -> str:
    item = chosen(listed, remedy)
    called = item.get("id", item["name"])
    wishing = [
        f"name {called} in the {key} of {identity_of(other)}"
        for other in listed
        if identity_of(other) not in remedy.algorithms
        for key in WISHES
        if set(wished(other, key)) & set(remedy.algorithms)
    ]
    return ", and ".join([*wishing, f"choose one a batch: {_quoted(terms.item(item), terms)}"])


def _listing(keys: Sequence[str]) -> str:
    return ", ".join(keys[:-1]) + f" and {keys[-1]}" if len(keys) > 1 else keys[0]


def _quoted(text: str, terms: Terms) -> str:
    return f"`{text}`" if terms is Terms.YAML else text


def as_listed(fault: Fault, listed: Sequence[object], terms: Terms) -> Fault:
    """Return a fault with its first way in words; one that has no ways stays as it is."""
    ways = in_terms(fault.ways, terms)
    return worded(fault, ways[:1], listed, terms) if ways else fault
