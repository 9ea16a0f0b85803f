"""The batch steps of a plan as one compiled function for each set of methods that act."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from counterpoint.core.compat import with_own_code
from counterpoint.core.declare.batch import Batch
from counterpoint.core.run.batch.calls import BoundEdit, Call, map_draws
from counterpoint.core.run.batch.device_transfer import moved
from counterpoint.core.tensors.buffers import empty_like

__all__ = ["ACTIVE_SETS", "VARIANTS", "Calls", "Compiled"]

_log = logging.getLogger("counterpoint")

ACTIVE_SETS = 8
"""How many sets of acting methods get a function of their own; one more computes them all and selects."""

VARIANTS = 32
"""How many functions a plan compiles. Batches that would need more, of many shapes, run step by step."""

_FUSED: dict[str, Any] = {
    "realize_reads_threshold": 1000,
    "realize_acc_reads_threshold": 1000,
    "realize_opcount_threshold": 10000,
}
"""Compiler settings: compute a partner's values again instead of storing the whole batch in between."""


Apply = Callable[[BoundEdit, Batch, Any], Batch]
"""Makes one edit of a batch, with its draws."""
Run = Callable[[Sequence[Call], Batch], Batch]
"""Makes edits one after the other."""


class Calls(Protocol):
    """What gives the edits of a batch: those that act on it, or with ``everyone`` all."""

    def __call__(self, *, everyone: bool = False) -> list[Call]:
        """Return the edits, in order."""
        ...


class Compiled:
    """Runs edits as compiled functions, each compiled when it is needed for the second time.

    A function is for one set of acting methods and one form of batch and draws; other draws never cause a
    recompilation. Its results are not overwritten while the caller uses them. If nothing can be compiled, this warns
    once with a ``RuntimeWarning``, and runs the edits one by one. ``backend`` is one of ``torch.compile``.
    """

    def __init__(self, backend: str, apply: Apply, run: Run) -> None:
        self._backend, self._apply, self._run = backend, apply, run
        self._variants: dict[_Key, _Variant] = {}
        self._works = True

    def __getstate__(self) -> dict[str, object]:
        # Another process may have a compiler even if this one has none.
        return {**self.__dict__, "_works": True}

    def run(self, batch: Batch, calls: Calls) -> Batch:
        """Return the batch after its edits."""
        acting = calls()
        if not self._works or not acting or batch.further:
            return self._run(acting, batch)
        form = _form_of(batch)
        key = _Key(form, _signature(acting))
        variant = self._variants.get(key)
        if variant is None and sum(known.form == form for known in self._variants) >= ACTIVE_SETS:
            acting = calls(everyone=True)
            key = _Key(form, _signature(acting), selects=True)
            variant = self._variants.get(key)
        if variant is None:
            edited = self._run([call for call in acting if call.active], batch)
            if len(self._variants) < VARIANTS:
                kind = (self._backend, self._apply)
                self._variants[key] = _Variant(*kind, acting, batch, edited, selects=key.selects)
            return edited
        try:
            return variant.run(acting, batch)
        except Exception as error:  # noqa: BLE001 - the compiler has errors of many types, most of them private
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # An error of a method or of the data is raised here, and the plan stays compiled.
        edited = self._run([call for call in acting if call.active], batch)
        self._works = False
        warnings.warn(
            f"the plan cannot be compiled here and runs step by step: {reason} (a transform that the compiler cannot "
            "take is declared with eager=True)",
            RuntimeWarning,
            stacklevel=2,
        )
        return edited


class _Key(NamedTuple):
    """What a function is for: the form of the batch, and the names and the forms of the draws of its edits."""

    form: tuple[object, ...]
    calls: tuple[str, ...]
    selects: bool = False


class _Variant:
    """A function for edits of certain names, with what its results look like."""

    def __init__(
        self, backend: str, apply: Apply, calls: Sequence[Call], batch: Batch, edited: Batch, *, selects: bool
    ) -> None:
        self._backend, self._apply = backend, apply
        self._inputs = None if edited.inputs is batch.inputs else edited.inputs.to("meta")
        held = replace(edited, inputs=torch.empty(0), targets=torch.empty(0), given_targets=None)
        self._facts = replace(held, writable=self._inputs is not None)
        self._selects = selects
        self._chain: Callable[..., tuple[Tensor, Tensor]] | None = None
        self._names = ", ".join(call.edit.name for call in calls)

    def __getstate__(self) -> dict[str, object]:
        # A copy compiles its own function where this one has one, and so gives the same bits.
        return {**self.__dict__, "_chain": None}

    def run(self, calls: Sequence[Call], batch: Batch) -> Batch:
        if self._chain is None:
            _log.info("compiling %s: this batch takes longer", self._names)
            self._chain = _compiled(self._backend, self._apply, calls, batch, selects=self._selects)
        device = batch.inputs.device
        flags = _flags(calls, device) if self._selects else None
        out = empty_like(self._inputs) if self._inputs is not None and device.type == "cpu" else None
        inputs, targets = self._chain(batch.inputs, batch.targets, [call.draws for call in calls], flags, out)
        edited = replace(self._facts, inputs=inputs, targets=targets, given_targets=batch.given_targets)
        return replace(edited, writable=self._facts.writable or batch.writable)


def _compiled(
    backend: str, apply: Apply, calls: Sequence[Call], batch: Batch, *, selects: bool
) -> Callable[..., tuple[Tensor, Tensor]]:
    facts = (batch.inputs_kind, batch.targets_kind, batch.task, batch.num_classes)
    edits = [(call.edit, selects and not call.certain) for call in calls]

    def chain(
        inputs: Tensor, targets: Tensor, draws: Sequence[Any], flags: Tensor | None, out: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        batch = Batch(inputs, targets, *facts)
        for number, (edit, conditional) in enumerate(edits):
            edited = apply(edit, batch, draws[number])
            batch = _select(flags[number], edited, batch) if flags is not None and conditional else edited
        return batch.inputs if out is None else out.copy_(batch.inputs), batch.targets

    options = _FUSED if backend == "inductor" else None
    return torch.compile(with_own_code(chain), fullgraph=True, dynamic=False, backend=backend, options=options)


def _select(active: Tensor, edited: Batch, batch: Batch) -> Batch:
    return replace(
        edited,
        inputs=torch.where(active, edited.inputs, batch.inputs),
        targets=torch.where(active, edited.targets, batch.targets),
    )


def _flags(calls: Sequence[Call], device: torch.device) -> Tensor:
    return moved([torch.tensor([call.active for call in calls])], device)[0]


def _form_of(batch: Batch) -> tuple[object, ...]:
    return (_described(batch.inputs), _described(batch.targets), batch.inputs_kind, batch.targets_kind)


def _signature(calls: Sequence[Call]) -> tuple[str, ...]:
    return tuple(f"{call.edit.name} {map_draws(_described, call.draws)!r}" for call in calls)


def _described(tensor: Tensor) -> tuple[object, ...]:
    return (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
