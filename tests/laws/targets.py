"""Law 3: the batch that reaches the model and the loss is the mathematical composition, and so is the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

import counterpoint as cp
from counterpoint import DENSE, Axis, Field
from tests.laws.case import CLASSES, HEIGHT, STEPS, WIDTH, Composition, Edited, Through
from tests.laws.draft import altered, leaves
from tests.laws.reference import as_rows, expected_batch
from tests.laws.tally import Tally


def targets_are_the_composition(case: Composition, plan: cp.Plan, batches: Sequence[Edited], tally: Tally) -> None:
    """Law 3: the targets that reach the loss are those that the formulas and the printed draws give; so the inputs.

    Inputs are rounded to their dtype by each step, so that they agree to a few units of its precision, or where a step
    makes another dtype of it, of the coarser one; where a step has no formula in the reference, or one that a rounding
    can change altogether, they are not compared.
    """
    for step in range(STEPS):
        inputs, targets = expected_batch(plan, case, step)
        got_inputs, got = batches[step]
        if not got.is_floating_point():
            given = case.targets(step)
            assert len(got) == len(targets)
            assert len(got) < len(given) or torch.equal(got, given)
            got = _rows(got, case)
        close(got, targets, torch.float64 if got.dtype == torch.float64 else torch.float32)
        tally.count("3 targets")
        rows = as_rows(case, step)
        tally.count("3 targets that changed", int(rows.shape != targets.shape or not numpy.allclose(rows, targets)))
        if inputs is not None:
            close(got_inputs, inputs, coarser(case.inputs(step).dtype, got_inputs.dtype))
            tally.count("3 inputs")


def _rows(indices: Tensor, case: Composition) -> Tensor:
    counted = indices != case.ignore_index
    rows = functional.one_hot(indices.where(counted, 0), CLASSES).movedim(-1, 1)
    return (rows * counted.unsqueeze(1)).double()


def coarser(given: torch.dtype, got: torch.dtype) -> torch.dtype:
    """Return the dtype of less precision of two, or the second where the first is of bytes."""
    both = given.is_floating_point and got.is_floating_point
    return given if both and torch.finfo(given).eps > torch.finfo(got).eps else got


def close(got: Tensor, wanted: Any, dtype: torch.dtype) -> None:
    """Assert that a tensor agrees with float64 numbers to 16 units of a dtype's precision, of the largest number."""
    scale = max(1.0, float(abs(wanted).max()))
    precision = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    assert tuple(got.shape) == wanted.shape, f"{tuple(got.shape)} instead of {wanted.shape}"
    numpy.testing.assert_allclose(got.double().numpy(), wanted, rtol=0, atol=16 * scale * precision)


def unit_vectors_agree(case: Composition, plan: cp.Plan, tally: Tally) -> None:
    """Law 3: on a batch of unit vectors, targets are mixed as what the model gives is, by no formula at all.

    Channel j of sample j is 1, and so is its class j; the model gives what it gets. So its outputs are the shares by
    which samples were mixed, at each position, and the targets must be these shares.
    """
    mixers = [altered(item, after=(), before=()) for item in case.listed if all(map(mixes, leaves(item)))]
    if not mixers:
        return
    task, size = case.facts["task"], case.size
    stated = {"loss": None, "num_classes": size, "inputs": "image", "model_inputs": None, "strict_order": False}
    engine = cp.Engine(cp.compose(mixers, **{**case.facts, **stated}), model=Through(), rank=0)
    units = torch.eye(size, dtype=torch.float64)
    images = units[:, :, None, None].expand(size, size, HEIGHT, WIDTH)
    for _ in range(STEPS):
        with engine.batch(images, images if task == "segmentation" else units) as batch, engine.forward():
            shares = engine.model(batch.inputs)
        wanted = shares if task == "segmentation" else shares.mean((2, 3))
        numpy.testing.assert_allclose(batch.targets.numpy(), wanted.numpy(), rtol=0, atol=1e-12)
        tally.count("3 unit vectors")
        tally.count("3 unit vectors that mix", int(not torch.allclose(shares, images)))


def mixes(leaf: cp.Algorithm[Any]) -> bool:
    """Whether a method mixes samples with their targets, and does nothing else."""
    edits = [edit for effect in leaf.declared().transforms for edit in effect.edits.items()]
    targets = [edit for part, edit in edits if part is Field.TARGETS]
    alike = all(edit.acts == {Axis.SAMPLE} and edit.fills is None and not edit.resizes for _, edit in edits)
    return bool(targets) and alike


def dense_is_the_same_loss(case: Composition, plan: cp.Plan, tally: Tally) -> None:
    """Law 3: on dense rows the loss is torch's own on the indices that they stand for, value and gradient."""
    module, targets = case.facts["loss"], case.targets(0)
    if not isinstance(module, nn.CrossEntropyLoss | nn.NLLLoss) or targets.is_floating_point():
        return
    assert plan.loss_spec is not None
    assert DENSE in plan.loss_spec.accepts
    generator = torch.Generator().manual_seed(case.seed)
    shape = (case.size, CLASSES, *targets.shape[1:])
    logits = torch.randn(*shape, generator=generator, dtype=torch.float64).log_softmax(1)
    weight = module.weight
    results = []
    for loss, wanted in ((plan.loss, torch.from_numpy(as_rows(case, 0))), (module.double(), targets)):
        outputs = logits.clone().requires_grad_()
        value = loss(outputs, wanted).sum()
        value.backward()
        results.append((value.detach(), outputs.grad))
    module.weight = weight
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12, equal_nan=True)
    tally.count("3 losses")
