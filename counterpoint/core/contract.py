"""Holding steps and hooks to what they declare: a violation names the algorithm, the field and the line to change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from counterpoint.core.batch import Batch
from counterpoint.core.effects import Contract, Form, HookEffect
from counterpoint.core.errors import ContractError, DataError
from counterpoint.core.intake import MASS_ERROR, check_masses, check_values, masses
from counterpoint.core.kinds import DENSE, Axis, Field
from counterpoint.core.sharding import local, reshard
from counterpoint.core.steps import BatchStep

__all__ = ["checksum", "watch_hook", "watch_restoring", "watch_step"]


def checksum(tensors: Iterable[Tensor]) -> bytes:
    """Return a digest of the bits of tensors; version counters would miss writes through ``.data`` or NumPy."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(local(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def watch_step(contract: Contract, number: int, step: BatchStep, before: Batch) -> Callable[[Batch], None]:
    """Return the check of a step against its declaration, for once it has run; it raises ``ContractError``.

    ``number`` counts device batches, ``before`` is the batch as the step gets it.
    """
    memory = None
    if contract is Contract.ALWAYS:
        memory = {Field.INPUTS: checksum(before.all_inputs), Field.TARGETS: checksum([before.targets])}

    def check(after: Batch) -> None:
        try:
            _check_fields(step, before, after, memory)
            _check_targets(step, before, after)
        except (ContractError, DataError) as error:
            lines = ", ".join(sorted({effect.where for effect in step.effects if effect.where}))
            declared = f"; the declaration is at {lines}" if lines else ""
            raise ContractError(f"{step.name}, at step {number}: {error}{declared}") from error

    return check


def _check_fields(step: BatchStep, before: Batch, after: Batch, memory: dict[Field, bytes] | None) -> None:
    for part, old_tensors, new_tensors in (
        (Field.INPUTS, before.all_inputs, after.all_inputs),
        (Field.TARGETS, (before.targets,), (after.targets,)),
    ):
        edits = [effect.edits[part] for effect in step.effects if part in effect.edits]
        owned = part is Field.INPUTS and before.writable and bool(edits)
        if memory is not None and not owned and checksum(old_tensors) != memory[part]:
            raise ContractError(f"it writes into the {part.value} that it was given; a step returns new tensors")
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


def _pass() -> None:
    """Check nothing."""


def _held(model: nn.Module, part: Field) -> list[Tensor]:
    reshard(model)
    if part is Field.PARAMETERS:
        return [*model.parameters(), *model.buffers()]
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
