"""What the checker says when methods do not fit, in the user's terms."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from counterpoint.core.events import Event
from counterpoint.core.remedy import Remedy, Way

__all__ = ["CODES", "Fault", "Terms"]

CODES = {
    "unknown-algorithm": "nothing is registered under this name",
    "broken-plugin": "the plugin behind this name cannot be used",
    "bad-config": "the config cannot be read, or does not fit its data, its model or the machine",
    "bad-setting": "a setting is unknown, of the wrong type or out of range",
    "not-an-algorithm": "an item of the list is no name, no mapping with a name, and no algorithm",
    "duplicate-id": "two methods of the list go by one name",
    "unknown-reference": "`after` or `before` names nobody in the list",
    "task-unstated": "the task is not stated, or not known",
    "task-unsupported": "a method has no meaning for the task",
    "inputs-unknown": "the kind of inputs is not known",
    "bad-argument": "an argument of `compose` is of the wrong type, out of range, or contradicts another",
    "classes-unstated": "dense targets are needed, and the number of classes is not stated",
    "needs-unmet": "a method needs a kind that nothing gives",
    "loss-targets": "the loss cannot take the targets that it would get",
    "model-inputs": "the model does not take the inputs that it would get",
    "loss-outputs": "the model does not give the outputs that the loss takes",
    "loss-unknown": "a loss does not say which targets it accepts",
    "two-mixers": "two methods mix the samples of one batch",
    "double-smoothing": "targets would be smoothed twice",
    "two-owners": "two methods own one slot",
    "cyclic-order": "no order satisfies everyone",
    "wish-impossible": "`after` or `before` asks for an order that cannot be",
    "ambiguous-order": "only the list decides an order, and strict_order forbids that",
    "branch-order": "branches of a choice would need different orders",
    "branch-hook": "a branch of a choice has hooks, which cannot be chosen for a batch",
    "conditional-kind": "a method that is sometimes skipped changes the kind of a field",
    "schedule-unused": "a method that acts outside of batches alone has a schedule",
    "duration-unknown": "a duration counts something that is not stated",
    "empty-window": "no batch of the run lies between the start of a method and its end",
    "never-acts": "a method, or a branch of a choice, can act on no batch of the run",
    "batch-too-small": "the batch is smaller than a method can work on",
    "microbatches": "a method needs the whole device batch in one forward pass",
    "no-sample-losses": "a method compares the losses of samples, and the loss gives one number for a batch",
    "late-surgery": "a method changes the model's modules after the optimizer took their parameters",
    "no-such-module": "a method names a module that the model does not have",
    "nothing-to-replace": "a method replaces modules of a kind that the model does not have",
    "loop-limit": "the training loop at hand cannot do what the plan needs",
}
"""Every code that a fault may have, with what it means."""

_PLAIN = re.compile(r"[a-z][a-z0-9_]*|[0-9.]+(ba|ep|dur)")
_NO_TEXT = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True)
class Fault:
    """One reason why a composition is refused.

    ``code`` is one of ``CODES`` and stable; ``message`` says what clashes with what, where and why; ``fix`` what to
    change, in the terms of whoever wrote the composition; ``algorithms`` names the parties, ``event`` the span at which
    they clash. ``remedies`` is the fix as data, for ``counterpoint.core.mend.mend``; empty where only a person can
    decide. ``ways`` are all ways out that ``fix`` words, the one of ``remedies`` first; those that hold a ``Decide``
    leave something to a person. The checker starts from every way that comes into question, and keeps those that lead
    on.
    """

    code: str
    message: str
    fix: str = ""
    algorithms: tuple[str, ...] = ()
    event: Event | None = None
    remedies: tuple[Remedy, ...] = ()
    ways: tuple[Way, ...] = ()

    def __str__(self) -> str:
        at = f" at each {self.event.value}:" if self.event else ""
        return f"[{self.code}]{at} {self.message}\n    fix: {self.fix}"


class Terms(Enum):
    """How fixes are worded: as a Python call, or as lines of a config."""

    PYTHON = "python"
    YAML = "yaml"

    def setting(self, key: str, value: str) -> str:
        """Word a key with its value.

        >>> Terms.PYTHON.setting("task", "'multiclass'"), Terms.YAML.setting("task", "multiclass")
        ("task='multiclass'", '`task: multiclass`')
        """
        return f"{key}={value}" if self is Terms.PYTHON else f"`{key}: {value}`"

    def place(self, *parts: int | str) -> str:
        """Word where something stands: in a list by its position, in a mapping by its key.

        >>> Terms.PYTHON.place("algorithms", 0, "alpha"), Terms.YAML.place("algorithms", 0, "alpha")
        ('algorithms[0].alpha', 'algorithms.0.alpha')
        """
        words = [f"[{part}]" if isinstance(part, int) and self is Terms.PYTHON else f".{part}" for part in parts]
        return "".join(words).removeprefix(".")

    def text(self, key: str, word: str) -> str:
        """Word a key whose value is text."""
        return self.setting(key, repr(word) if self is Terms.PYTHON else word)

    def word(self, value: bool | set[str]) -> str:
        """Word a switch or a set of words.

        >>> Terms.YAML.word(False), Terms.YAML.word({"index", "dense"}), Terms.PYTHON.word({"dense"})
        ('false', '[dense, index]', "{'dense'}")
        """
        if isinstance(value, bool):
            return str(value) if self is Terms.PYTHON else str(value).lower()
        words = sorted(value)
        return f"[{', '.join(words)}]" if self is Terms.YAML else "{" + ", ".join(map(repr, words)) + "}"

    def item(self, component: Mapping[str, Any]) -> str:
        """Word an item of the list of algorithms: a bare name where it has no settings, else a mapping.

        >>> Terms.YAML.item({"name": "mixup"}), Terms.YAML.item({"name": "mixup", "id": "late", "start": "0.5dur"})
        ('mixup', '{name: mixup, id: late, start: 0.5dur}')
        >>> Terms.PYTHON.item({"name": "one_of", "algorithms": ({"name": "mixup"}, {"name": "cutmix"})})
        "{'name': 'one_of', 'algorithms': ['mixup', 'cutmix']}"
        """
        plain = _bare(component)
        return _flow(plain) if self is Terms.YAML else repr(plain)

    def choice(self, name: str, branches: Sequence[Mapping[str, Any]]) -> str:
        """Word a choice among items of the list of algorithms, by the method of that name."""
        worded = self.item({"name": name, "algorithms": branches})
        return f"`{worded}`" if self is Terms.YAML else worded


def _bare(value: Any) -> Any:
    """Return plain data in which items of a list that have a name and nothing else are that name."""
    if isinstance(value, Mapping):
        inner = {key: _bare(held) for key, held in value.items()}
        return inner["name"] if inner.keys() == {"name"} else inner
    return [_bare(held) for held in value] if isinstance(value, list | tuple) else value


def _flow(value: Any) -> str:
    """Write plain data as YAML on one line; words stand without quotes where YAML reads them as text."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(held)}" for key, held in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _NO_TEXT
    return str(value) if plain else json.dumps(value)
