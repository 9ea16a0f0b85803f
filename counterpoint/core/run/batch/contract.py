"""Check steps and hooks against their declarations: an error names the algorithm, the field and the line to change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from counterpoint.core.declare.batch import Batch
from counterpoint.core.declare.context import Scope
from counterpoint.core.declare.effects import Contract, Form, HookEffect, Phase
from counterpoint.core.declare.kinds import DENSE, Axis, Field
from counterpoint.core.errors import ContractError, DataError
from counterpoint.core.plan.steps import BatchStep
from counterpoint.core.run.batch.generators import GeneratorWatch
from counterpoint.core.run.batch.validation import MASS_ERROR, check_masses, check_values, masses
from counterpoint.core.run.progress import Progress
from counterpoint.core.tensors.sharding import local, reshard

__all__ = ["checksum", "watch_hook", "watch_restoring", "watch_step", "watched_call"]


def checksum(tensors: Iterable[Tensor]) -> bytes:
    """Return a digest of the bits of tensors; version counters miss writes through ``.data`` or NumPy."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        if tensor.is_meta:
            continue  # it has no bits
        digest.update(local(tensor.detach()).to_dense().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def watch_step(number: int, step: BatchStep, before: Batch, lent: Sequence[Tensor]) -> Callable[[Batch], None]:
    """Return what checks a step against its declaration once it has run; raises ``ContractError``.

    ``number`` counts device batches, ``before`` is the batch as the step gets it, ``lent`` are tensors of the caller's.
    """
    memory = {part: checksum(tensors) for part, tensors in _kept(step, before).items()}
    callers = [checksum([tensor]) for tensor in lent]

    def check(after: Batch) -> None:
        try:
            for part, tensors in _kept(step, before).items():
                if checksum(tensors) != memory[part]:
                    raise ContractError(
                        f"it writes into the {part.value} that it was given; a step returns new tensors"
                    )
            if [checksum([tensor]) for tensor in lent] != callers:
                raise ContractError("it writes into a tensor that the caller gave to the plan; a step returns new ones")
            with torch.no_grad():
                _check_fields(step, before, after)
                _check_targets(step, before, after)
        except (ContractError, DataError) as error:
            lines = ", ".join(sorted({effect.where for effect in step.effects if effect.where}))
            declared = f"; the declaration is at {lines}" if lines else ""
            raise ContractError(f"{step.name}, at step {number}: {error}{declared}") from error

    return check


def _kept(step: BatchStep, before: Batch) -> dict[Field, tuple[Tensor, ...]]:
    """Return the tensors that a step may not write to: targets, and inputs that the plan does not own."""
    owned = before.writable and any(Field.INPUTS in effect.edits for effect in step.effects)
    kept = {Field.INPUTS: before.all_inputs, Field.TARGETS: (before.targets,)}
    return {part: tensors for part, tensors in kept.items() if not (owned and part is Field.INPUTS)}


def _check_fields(step: BatchStep, before: Batch, after: Batch) -> None:
    for part, old_tensors, new_tensors in (
        (Field.INPUTS, before.all_inputs, after.all_inputs),
        (Field.TARGETS, (before.targets,), (after.targets,)),
    ):
        for old, new in zip(old_tensors, new_tensors, strict=True):
            _check_edited(step, part, old, new)
            if len(new) != len(after.inputs):
                raise ContractError(f"it leaves {len(after.inputs)} inputs and {len(new)} {part.value}")


def _check_edited(step: BatchStep, part: Field, old: Tensor, new: Tensor) -> None:
    edits = [effect.edits[part] for effect in step.effects if part in effect.edits]
    if not edits and new is not old:
        raise ContractError(f"it edits {part.value} and does not declare it; add {part.value}=... to @transform")
    resized = any(edit.resizes for edit in edits) or step.before[part] != step.after[part]
    if new.shape != old.shape and not resized:
        raise ContractError(
            f"it turns {part.value} of shape {tuple(old.shape)} into {tuple(new.shape)}; declare an Edit for "
            f"{part.value} with resizes=True, or keep the shape"
        )


def _check_targets(step: BatchStep, before: Batch, after: Batch) -> None:
    check_values(after.targets, after.targets_kind, after.num_classes)
    if after.targets_kind == DENSE and before.targets_kind != DENSE:
        check_masses(after.targets)
    if before.targets_kind == after.targets_kind == DENSE and after.targets is not before.targets:
        _check_kept_masses(step, before.targets, after.targets)


def _check_kept_masses(step: BatchStep, before: Tensor, after: Tensor) -> None:
    """Check that rows keep their mass, or where rows are mixed or filled, that it lies between those it found."""
    if after.device.type != "cpu" or after.numel() == 0:
        return
    edits = [effect.edits[Field.TARGETS] for effect in step.effects if Field.TARGETS in effect.edits]
    low = high = old = masses(before)
    new = masses(after)
    mixes = any(edit.acts & {Axis.SAMPLE, Axis.POSITION} or edit.fills == 0 for edit in edits)
    if new.shape != old.shape or mixes:
        averages = all(edit.form <= Form.AVERAGE for edit in edits)
        low, high = (old.min() if averages else torch.zeros(())), old.max()
    wrong = (new < low - MASS_ERROR) | (new > high + MASS_ERROR)
    if wrong.any():
        raise ContractError(
            f"a dense row has mass {new[wrong][0].item():g} after it; a step keeps the mass of each row, and one that "
            "mixes rows leaves none with less or more mass than it found; scale the rows back"
        )


def watch_hook(contract: Contract, owner: str, effect: HookEffect, model: nn.Module) -> Callable[[], None]:
    """Return what finds, once a hook has run, whether it wrote into parameters or gradients without declaring it."""
    silent = [part for part in (Field.PARAMETERS, Field.GRADIENTS) if part not in effect.writes]
    surgery = Field.MODULES in effect.writes  # other modules hold other tensors, which cannot be compared
    if contract is not Contract.ALWAYS or not silent or surgery:
        return _pass
    memory = {part: checksum(_held(model, part)) for part in silent}

    def check() -> None:
        for part in silent:
            if checksum(_held(model, part)) != memory[part]:
                raise ContractError(
                    f"{owner}.{effect.method} writes {part.value} and does not declare it: "
                    f"add writes={part.value!r} at {effect.where}"
                )

    return check


def watch_restoring(contract: Contract, owner: str, effect: HookEffect, model: nn.Module) -> Callable[[], None]:
    """Return what finds, once a span has ended, whether a hook around it put the parameters back."""
    if contract is not Contract.ALWAYS or Field.PARAMETERS not in effect.restores:
        return _pass
    memory = checksum(_held(model, Field.PARAMETERS))

    def check() -> None:
        if checksum(_held(model, Field.PARAMETERS)) != memory:
            raise ContractError(
                f"{owner}.{effect.method} declares that it restores the parameters, and left others, after "
                f"{effect.event.value}: put them back, or change restores= at {effect.where}"
            )

    return check


def watched_call(
    contract: Contract, owner: str, effect: HookEffect, call: Callable[..., Any], progress: Progress
) -> Callable[..., Any]:
    """Return a hook before or after a span within a batch that is checked on its first batches, or on all.

    It may not draw from a global generator, and may not write into a batch that it does not declare to write.
    """
    if contract is Contract.OFF or not effect.event.in_batch or effect.phase not in (Phase.BEFORE, Phase.AFTER):
        return call
    name = f"{owner}.{effect.method}"

    def checked(state: object, scope: Scope) -> object:
        if not progress.check(contract, (name,)):
            return call(state, scope)
        lent = _read_alone(effect, scope)
        generators, memory = GeneratorWatch(), checksum(lent)
        result = call(state, scope)
        generators.check(name)
        if checksum(lent) != memory:
            raise ContractError(
                f"{name} writes into the inputs or targets of the batch and does not declare it: add writes=... at "
                f"{effect.where}"
            )
        return result

    return checked


def _read_alone(effect: HookEffect, scope: Scope) -> list[Tensor]:
    """Return the tensors of a batch that a hook declares to read and not to write."""
    if len(scope.concerned) != 1:
        return []
    batch = scope.concerned[0].batch
    fields = {Field.INPUTS: batch.all_inputs, Field.TARGETS: (batch.targets,)}
    return [tensor for part in effect.reads - effect.writes if part in fields for tensor in fields[part]]


def _pass() -> None:
    """Check nothing."""


def _held(model: nn.Module, part: Field) -> list[Tensor]:
    reshard(model)
    if part is Field.PARAMETERS:
        return [tensor for tensor in chain(model.parameters(), model.buffers()) if not is_lazy(tensor)]
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
