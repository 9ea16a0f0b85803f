"""No edit of a batch makes the host wait for a device, shown without one.

On a GPU the host runs ahead. It waits where it reads a value (``item``, ``tolist``, ``bool``, a mask as an index) and
where it copies from memory that is not pinned (``torch.tensor``, ``to``, a list as an index). Here batches and draws
lie on torch's ``meta``, which has no values that could be read, and two modes catch what it lets pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import counterpoint as cp
from counterpoint import IMAGES
from counterpoint.algorithms.trivial_augment import OPERATIONS
from counterpoint.core.run.batch.calls import BoundMember, Call, bind, map_draws
from counterpoint.core.run.batch.runner import run_calls
from counterpoint.core.run.batch.validation import check_batch
from counterpoint.core.run.dice import Dice
from tests.algorithms.batches import SHAPE, images, plan_for, targets
from tests.algorithms.cases import CASES, Case, EditCase

DEVICE = "meta"
SIZE = 24
MAKERS = {"as_tensor", "asarray", "new", "new_tensor", "tensor"}
INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
READING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class HostWaits(AssertionError):
    """What was done would make the host wait for the device."""


def places(*tree: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


class Operations(TorchDispatchMode):
    """Fails on operations that read values of the device, and on those of tensors there and on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = bool(READING & set(func.tags))
        if func.overloadpacket in INDEXING:
            reads = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if reads and DEVICE in places(args, kwargs):
            raise HostWaits(f"{func} reads values of the device")
        result = func(*args, **(kwargs or {}))
        if places(args, kwargs, result) == {DEVICE, "cpu"}:
            raise HostWaits(f"{func} copies between the host and the device")
        return result


class Calls(TorchFunctionMode):
    """Fails where values of the host are written to the device in ways that ``meta`` skips."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in MAKERS and DEVICE in places(result) and DEVICE not in places(args[name.startswith("new") :]):
            raise HostWaits(f"{name} copies from the host to the device")
        if name in ("__getitem__", "__setitem__") and DEVICE in places(args[0]):
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list | range | np.ndarray) for part in parts):
                raise HostWaits(f"an index of type {type(args[1]).__name__} is copied from the host to the device")
        return result


@contextmanager
def nobody_waits() -> Iterator[None]:
    with torch.no_grad(), Calls(), Operations():
        yield


def calls(plan: cp.Plan, step: int, size: int) -> Iterator[Call]:
    """Give every edit that a plan may make, of a choice those of each branch, with its draws on the device."""
    for planned in plan.steps:
        for leaf in leaves(bind(planned).work):
            drawn = plan.runner.draw(
                leaf.member, cp.BatchSpec(size, SHAPE, plan.facts.num_classes), Dice(plan.facts.seed, step, 0)
            )
            drawn = map_draws(lambda tensor: tensor.to(DEVICE), drawn)
            for edit in leaf.edits:
                function = with_losses(edit.function) if edit.sample_losses else edit.function
                yield Call(replace(edit, function=function), drawn)


def leaves(work: BoundMember) -> Iterator[BoundMember]:
    for branch in work.branches:
        yield from leaves(branch)
    if not work.branches:
        yield work


def with_losses(edit: Callable[..., cp.Batch]) -> Callable[[cp.Batch, Any], cp.Batch]:
    return lambda batch, draws: edit(batch, draws, lambda: torch.empty(len(batch.inputs), device=DEVICE))


def edit_on_device(plan: cp.Plan, inputs: Tensor, given: Tensor, step: int = 0, *, donate: bool = False) -> None:
    """Make every edit of a plan on the device, each of what the one before gives."""
    kinds = plan.facts.inputs, plan.facts.task.targets, plan.facts.task.name, plan.facts.num_classes
    batch = cp.Batch(inputs.to(DEVICE), given.to(DEVICE), *kinds, writable=donate)
    with nobody_waits():
        batch = check_batch(plan, batch)
    for call in calls(plan, step, len(inputs)):
        with nobody_waits():
            batch = replace(run_calls([call], batch), writable=donate)
    assert places(batch.inputs, batch.targets) == {DEVICE}


def edits_batches(case: Case) -> bool:
    return bool(case.algorithm.declaration.transforms or case.algorithm.alternatives())


EDITING = [name for name, cases in CASES.items() if any(map(edits_batches, cases))]


@pytest.mark.slow
@pytest.mark.parametrize("name", EDITING)
def test_no_edit_makes_the_host_wait(name: str) -> None:
    for case in CASES[name]:
        for task, kind in product(case.tasks, case.inputs if isinstance(case, EditCase) else ("image",)):
            plan = plan_for([case.algorithm], task, inputs=kind)
            for step, (donate, dense) in enumerate(product((False, True), (False, True))):
                given = targets(SIZE, task, dense=dense)
                edit_on_device(plan, images(SIZE, kind=kind), given, step, donate=donate)


def test_every_method_that_edits_batches_is_tried() -> None:
    """A registered method without a case fails in test_cases.py; one whose edits are not seen here fails here."""
    assert {"cutmix", "cutout", "label_smoothing", "manifold_mixup", "mixup", "normalize", "one_of"} <= set(EDITING)
    assert {"selective_backprop", "trivial_augment"} <= set(EDITING)
    assert set(CASES) - set(EDITING) == {"blurpool", "ema", "gradient_clipping", "sam", "swa"}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_of_trivial_augment_makes_the_host_wait(operation: str) -> None:
    for kind in ("bytes", "unit"):
        strong = torch.ones(SIZE, dtype=torch.float64, device=DEVICE)
        inputs = images(SIZE, kind=kind).to(DEVICE)
        with nobody_waits():
            assert OPERATIONS[operation](inputs, strong).shape == inputs.shape


class Reading(cp.Algorithm[Tensor], name="reading"):
    """A method that reads its draw."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.uniform()

    @cp.transform(inputs=IMAGES, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, share: Tensor) -> cp.Batch:
        return batch.with_inputs(batch.inputs * share.item())


class Copying(cp.Algorithm[None], name="copying"):
    """A method that makes its numbers on the host."""

    @cp.transform(inputs=IMAGES, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs * torch.tensor([1.0, 2.0, 3.0]).view(-1, 1, 1).to(batch.inputs.device))


class Innocent(cp.Algorithm[Tensor], name="innocent"):
    """A method that does neither."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.uniform()

    @cp.transform(inputs=IMAGES, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, share: Tensor) -> cp.Batch:
        return batch.with_inputs(torch.where(share > 0.5, batch.inputs * 2.0, 0.0))


def test_a_method_that_reads_or_copies_is_caught_and_no_other() -> None:
    edit_on_device(plan_for([Innocent()]), images(SIZE), targets(SIZE))
    with pytest.raises(HostWaits, match="_local_scalar_dense"):
        edit_on_device(plan_for([Reading()]), images(SIZE), targets(SIZE))
    with pytest.raises(HostWaits, match="_to_copy"):
        edit_on_device(plan_for([Copying()]), images(SIZE), targets(SIZE))


WAITING: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tolist": lambda values, index: index.tolist(),
    "bool": lambda values, index: bool((values > 0).any()),
    "float": lambda values, index: float(values[0, 0]),
    "equal": lambda values, index: torch.equal(values, values),
    "nonzero": lambda values, index: (values > 0).nonzero(),
    "unique": lambda values, index: index.unique(),
    "a mask as an index": lambda values, index: values[values > 0],
    "a mask written to": lambda values, index: values.__setitem__(values > 0, 0.0),
    "a length": lambda values, index: values[: index[0]],
    "cpu": lambda values, index: values.cpu(),
    "tensor": lambda values, index: torch.tensor([1.0], device=DEVICE),
    "a number": lambda values, index: torch.tensor(1.0, device=DEVICE),
    "new_tensor": lambda values, index: values.new_tensor([1.0]),
    "as_tensor": lambda values, index: torch.as_tensor(np.ones(2), device=DEVICE),
    "type_as": lambda values, index: torch.ones(2).type_as(values),
    "copy_": lambda values, index: values.copy_(torch.ones(4, 3)),
    "a list as an index": lambda values, index: values[[0, 1]],
    "an array as an index": lambda values, index: values[:, np.array([0, 1])],
    "an index on the host": lambda values, index: values[torch.tensor([0, 1])],
}


@pytest.mark.parametrize("what", WAITING)
def test_what_waits_is_caught(what: str) -> None:
    values, index = torch.empty(4, 3, device=DEVICE), torch.empty(4, dtype=torch.int64, device=DEVICE)
    # Out of ``meta`` torch itself copies nothing.
    with pytest.raises((HostWaits, NotImplementedError)), nobody_waits():
        WAITING[what](values, index)
