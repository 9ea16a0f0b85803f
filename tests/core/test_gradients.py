"""Gradients through a plan are those of the edit, and a step that has none is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
import counterpoint.functional as CF
from counterpoint.algorithms import CutMix, CutOut, LabelSmoothing, ManifoldMixup, MixUp, OneOf, forms
from counterpoint.core.tensors import buffers as memory
from tests.algorithms.batches import CLASSES, images, plan_for, targets
from tests.algorithms.cases import CASES, EditCase

pytestmark = [pytest.mark.kind("2"), pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]

EDITS = [
    pytest.param(case, id=f"{name}-{number}")
    for name, cases in CASES.items()
    for number, case in enumerate(cases)
    if isinstance(case, EditCase)
]
modes = pytest.mark.parametrize("donate", [False, True], ids=["kept", "donated"])
ways = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


def batch_for(case: EditCase, task: str) -> tuple[Tensor, Tensor] | None:
    """Return float64 inputs and dense or real targets that require gradients, and are no leaves."""
    kinds = [kind for kind in case.inputs if kind != "bytes"]
    if not kinds:
        return None
    inputs = images(4, torch.float64, kinds[0]).requires_grad_()
    inner = 0.1 + 0.8 * targets(4, task, dense=True).double()  # steps of a numeric gradient stay within 0 to 1
    return inputs, (inner if task == "multilabel" else targets(4, task, dense=True).double()).requires_grad_()


def of_plan(plan: cp.Plan, step: int, donate: bool) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def run(inputs: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
        return plan(inputs * 1.0, given * 1.0, step=step, donate=donate)

    return run


@pytest.mark.slow
@modes
@ways
@pytest.mark.parametrize("case", EDITS)
def test_the_gradient_of_every_method_is_that_of_its_edit(case: EditCase, compiled: bool, donate: bool) -> None:
    for task in case.tasks:
        batch = batch_for(case, task)
        if batch is None:
            continue
        kind = next(kind for kind in case.inputs if kind != "bytes")
        plan = plan_for([case.algorithm], task, inputs=kind, contract="off")
        plan = replace(plan, backend="eager") if compiled else plan
        for step in range(3):
            assert torch.autograd.gradcheck(of_plan(plan, step, donate), batch, fast_mode=True)


@pytest.mark.slow
@modes
@pytest.mark.parametrize("case", EDITS)
def test_samples_that_are_edited_one_by_one_in_used_memory_have_it_too(
    case: EditCase, donate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for edit in forms.FROM_BYTES:
        monkeypatch.setitem(forms.FROM_BYTES, edit, 0)
    monkeypatch.setattr(memory, "LARGE", 1)
    batch = batch_for(case, case.tasks[0])
    if batch is not None:
        kind = next(kind for kind in case.inputs if kind != "bytes")
        plan = plan_for([case.algorithm], case.tasks[0], inputs=kind)
        assert torch.autograd.gradcheck(of_plan(plan, 1, donate), batch, fast_mode=True)


@modes
@ways
def test_a_layer_in_front_of_a_plan_learns(compiled: bool, donate: bool) -> None:
    """Its gradients are those of a loop that computes the edit from the plan's draws."""
    methods = [CutOut(length=0.4, per_sample=False), MixUp(alpha=1.0), LabelSmoothing(smoothing=0.2)]
    plan = cp.compose(methods, loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=3, seed=5, compile=compiled)
    torch.manual_seed(0)
    front, back = nn.Conv2d(3, 3, 3, padding=1).double(), nn.Sequential(nn.Flatten(), nn.Linear(75, 3).double())
    x, y = torch.rand(4, 3, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    for step in range(4):
        edited, dense = plan(torch.sigmoid(front(x)), y, step=step, donate=donate)
        found = torch.autograd.grad(plan.loss(back(edited), dense), list(front.parameters()))
        drawn = plan.draws(step, cp.BatchSpec(4, (3, 5, 5), 3))
        ((left, top, right, bottom),) = drawn["cutout"][0].tolist()
        kept = torch.ones(5, 5, dtype=torch.float64)
        kept[top:bottom, left:right] = 0
        values, rows = torch.sigmoid(front(x)) * kept, torch.eye(3, dtype=torch.float64)[y] * 0.8 + 0.2 / 3
        lam, perm = drawn["mixup"]
        values, rows = lam * values + (1 - lam) * values[perm], lam * rows + (1 - lam) * rows[perm]
        wanted = torch.autograd.grad(nn.functional.cross_entropy(back(values), rows), list(front.parameters()))
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_targets_of_a_teacher_have_a_gradient_without_inputs_that_ask_for_one() -> None:
    plan = plan_for([MixUp(alpha=1.0), LabelSmoothing()], contract="off")
    inputs = images(4, torch.float64)

    def run(given: Tensor) -> Tensor:
        return plan(inputs, given.softmax(1), step=3)[1]

    assert torch.autograd.gradcheck(run, torch.randn(4, CLASSES, dtype=torch.float64, requires_grad=True))
    edited, _ = plan(inputs, torch.rand(4, CLASSES).softmax(1).requires_grad_(), step=3)
    assert not edited.requires_grad


def test_several_inputs_have_each_their_own() -> None:
    plan = plan_for([CutMix(alpha=1.0), CutOut()], contract="off")
    views = tuple(images(4, torch.float64).roll(n, 2).requires_grad_() for n in range(2))

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        return plan(given, targets(4), step=1, donate=True)[0]

    assert torch.autograd.gradcheck(run, views, fast_mode=True)


def test_a_batch_prepared_for_evaluation_has_one() -> None:
    plan = plan_for([{"name": "normalize", "mean": [0.5], "std": [0.25]}, MixUp()], inputs="unit")
    x = images(2, torch.float64, "unit").requires_grad_()
    (slope,) = torch.autograd.grad(plan.prepare(x, targets(2))[0].sum(), x)
    assert torch.equal(slope, torch.full_like(x, 4.0))


class Exponential(cp.Algorithm[None], name="exponential"):
    """Has a gradient that is computed from the result, which autograd saves."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RECOLOR)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs.exp())


@modes
def test_what_autograd_saved_is_not_written_to_by_the_next_step_or_the_first(donate: bool) -> None:
    """The layer in front saves its result, and so does the first method; the last would edit in place."""
    for methods in ([CutOut()], [Exponential(before="cutout"), CutOut()]):
        plan = plan_for(methods, contract="off")
        assert plan.order[-1] == "cutout"

        def run(inputs: Tensor, plan: cp.Plan = plan) -> Tensor:
            return plan(inputs.sigmoid(), targets(4), step=0, donate=donate, repeat=True)[0]

        assert torch.autograd.gradcheck(run, images(4, torch.float64).requires_grad_(), fast_mode=True)


class Levels(cp.Algorithm[None], name="levels"):
    """Rounds the inputs, which have no gradient of use then."""

    @cp.transform(
        inputs=cp.Edit(cp.CONTINUOUS, varies=frozenset({cp.Axis.SAMPLE}), form=cp.Form.NONLINEAR, differentiable=False)
    )
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs((batch.inputs * 4).round() / 4)


@pytest.mark.parametrize("method", [Levels(p=0.01), OneOf(algorithms=[CutOut(), Levels()])], ids=type)
def test_a_method_without_a_gradient_is_refused_by_name_on_every_batch(method: Any) -> None:
    plan = plan_for([method], inputs="unit")
    x = images(4, kind="unit").requires_grad_()
    for step in range(3):
        with pytest.raises(cp.DataError, match=rf"{method.name} has no gradient with respect to inputs.*detach"):
            plan(x, targets(4), step=step)
    assert not plan(x.detach(), targets(4), step=0)[0].requires_grad
    with torch.no_grad():
        edited, _ = plan(x, targets(4), step=1)
    assert edited is x or not edited.requires_grad
    soft = targets(4, dense=True).requires_grad_()
    assert plan(x.detach(), soft, step=2)[1] is soft


def test_a_method_that_cuts_a_gradient_off_is_named() -> None:
    class Numpy(cp.Algorithm[None], name="numpy"):
        @cp.transform(inputs=cp.IMAGE, law=cp.Law.CONVEX)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_inputs(torch.from_numpy(batch.inputs.detach().numpy() * 2))

    plan = plan_for([Numpy()])
    plan(images(4), targets(4), step=0)
    for step in (1, 9):
        with pytest.raises(cp.ContractError, match=r"numpy cuts off the gradient of the inputs.*differentiable=False"):
            plan(images(4).requires_grad_(), targets(4), step=step)


def test_nothing_is_tracked_where_nobody_asks() -> None:
    plan = plan_for([CutOut(), MixUp(), LabelSmoothing()], contract="off")
    edited, dense = plan(images(4), targets(4), step=0)
    assert not edited.requires_grad
    assert not dense.requires_grad
    x = images(4).requires_grad_()
    with torch.no_grad():
        assert not plan(x, targets(4), step=0)[0].requires_grad
    with torch.inference_mode():
        assert not plan(x, targets(4), step=0)[0].requires_grad
    assert plan(x, targets(4), step=0)[0].requires_grad


@pytest.mark.parametrize("method", [MixUp(alpha=1.0), CutMix(), CutMix(per_sample=True), CutOut()])
@pytest.mark.parametrize("from_bytes", [0, 1 << 40], ids=["one by one", "in passes"])
def test_autograd_notices_what_a_donated_batch_overwrites(
    method: Any, from_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that saved the batch for its own gradient must not use the edited one."""
    for edit in forms.FROM_BYTES:
        monkeypatch.setitem(forms.FROM_BYTES, edit, from_bytes)
    plan, weight, written = plan_for([method]), torch.ones((), requires_grad=True), 0
    for step in range(8):
        x = images(6)
        before, saved = x.clone(), weight * x
        plan(x, targets(6), step=step, donate=True)
        if not torch.equal(x, before):
            written += 1
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                saved.sum().backward()
    assert written or from_bytes


class TestFunctions:
    """The pure functions, whose share and images may both be learnt."""

    PERM = torch.tensor([2, 0, 3, 1])

    @pytest.mark.parametrize("shape", [(), (4,)], ids=str)
    def test_mixup_has_a_gradient_with_respect_to_its_share(self, shape: tuple[int, ...]) -> None:
        lam = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
        x, y = images(4, torch.float64).requires_grad_(), targets(4, dense=True).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, y, lam: CF.mixup(x, y, lam, self.PERM), (x, y, lam), fast_mode=True)
        plain = (images(4, torch.float64), targets(4, dense=True).double())
        assert torch.autograd.gradcheck(lambda lam: CF.mixup(*plain, lam, self.PERM), lam)

    def test_hidden_mixing_has_one_behind_frozen_layers_too(self) -> None:
        plan = plan_for([ManifoldMixup(module="0")])
        model = nn.Sequential(nn.Flatten(), nn.Linear(105, CLASSES)).double()
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        x = images(4, torch.float64)
        with engine.batch(x, targets(4)) as batch:
            with engine.forward():
                outputs = model(batch.inputs)
            lam, perm, _ = engine.draws()["manifold_mixup"]
            slopes = torch.autograd.grad(outputs.square().sum(), list(model.parameters()))
        mixed = (lam * x + (1 - lam) * x[perm]).flatten(1)
        wanted = torch.autograd.grad(model[1](mixed).square().sum(), list(model.parameters()))
        torch.testing.assert_close(slopes, wanted)

    def test_geometry_and_colour_have_one_where_they_are_smooth(self) -> None:
        x = (images(2, torch.float64, "unit") * 0.5 + 0.2).requires_grad_()
        strength = torch.tensor([0.8, 1.1], dtype=torch.float64)
        for operation in (CF.rotate, CF.shear_x, CF.translate_y, CF.color, CF.contrast, CF.brightness, CF.sharpness):
            assert torch.autograd.gradcheck(lambda x, f=operation: f(x, strength), x, fast_mode=True), operation
        assert torch.autograd.gradcheck(CF.auto_contrast, x, fast_mode=True)

    def test_levels_have_none(self) -> None:
        x = images(2, kind="unit").requires_grad_()
        for call in (lambda x: CF.posterize(x, torch.tensor([4, 4])), CF.equalize):
            with pytest.raises(cp.DataError, match="have no gradient"):
                call(x)
            call(x.detach())
            with torch.no_grad():
                call(x)
