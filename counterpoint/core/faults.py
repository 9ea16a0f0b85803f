"""The faults of a composition as plain data, which the errors contain."""

from __future__ import annotations

from dataclasses import dataclass

from counterpoint.core.remedies import Remedy, Way

__all__ = ["CODES", "Fault"]

CODES = {
    "unknown-algorithm": "nothing is registered under this name",
    "broken-plugin": "the plugin behind this name cannot be used",
    "bad-config": "the config cannot be read, or does not fit its data, its model or the machine",
    "bad-setting": "a setting is unknown, of the wrong type or out of range",
    "not-an-algorithm": "an item of the list is no name, no mapping with a name, and no algorithm",
    "duplicate-id": "two methods of the list go by one name",
    "unknown-reference": "`after` or `before` names a method that is not in the list",
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


@dataclass(frozen=True)
class Fault:
    """One reason why a composition is refused.

    ``code`` is one of ``CODES`` and stable. ``message`` says what conflicts with what, where and why. ``fix`` says what
    to change, in the terms of the composition. ``algorithms`` names the methods involved, and ``event`` is the value of
    the ``Event`` where they conflict. ``remedies`` is the fix as data; it is empty if only a person can decide.
    ``ways`` are all fixes that ``fix`` describes, the one of ``remedies`` first; those with a ``Decide`` leave
    something to a person. The checker starts from every possible fix, and keeps those that work.
    """

    code: str
    message: str
    fix: str = ""
    algorithms: tuple[str, ...] = ()
    event: str | None = None
    remedies: tuple[Remedy, ...] = ()
    ways: tuple[Way, ...] = ()

    def __str__(self) -> str:
        at = f" at each {self.event}:" if self.event else ""
        return f"[{self.code}]{at} {self.message}\n    fix: {self.fix}"
