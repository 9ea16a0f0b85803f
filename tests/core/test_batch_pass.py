"""One pass of a batch through a plan: gradients of every input, half precision, and when values are looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import CutMix, CutOut, LabelSmoothing, MixUp, OneOf
from counterpoint.core.run.batch import compilation

pytestmark = [pytest.mark.kind("30"), pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]

FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 3}
Y = torch.tensor([0, 2, 1, 2])


class Doubles(cp.Algorithm[None], name="doubles"):
    """Twice the inputs."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs * 2)


class Turns(cp.Algorithm[None], name="turns"):
    """Changes the kind of the inputs by a product of matrices, which autocast would compute in half precision."""

    @cp.transform(
        inputs=cp.Edit(
            frozenset({cp.BYTES}), gives=cp.NORMALIZED, acts=frozenset({cp.Axis.POSITION}), form=cp.Form.AFFINE
        )
    )
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs((batch.inputs.float() / 255) @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]]))


@pytest.mark.parametrize("required", [0, 1, 2])
def test_the_one_input_of_several_that_requires_a_gradient_gets_it(required: int) -> None:
    plan = cp.compose([Doubles()], inputs="features", **FACTS)
    given = tuple(torch.rand(4, 2).requires_grad_(number == required) for number in range(3))
    edited, _ = plan(given, Y, step=5)
    assert [tensor.requires_grad for tensor in edited] == [number == required for number in range(3)]
    edited[required].sum().backward()
    gradient = given[required].grad
    assert gradient is not None
    assert torch.equal(gradient, torch.full((4, 2), 2.0))


def test_a_batch_for_evaluation_is_prepared_in_full_precision() -> None:
    plan = cp.compose([Turns()], inputs="bytes", **FACTS)
    inputs = torch.arange(32, dtype=torch.uint8).mul(7).view(4, 2, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prepared, _ = plan.prepare(inputs, Y)
    turned = inputs.double() / 255 @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared.double(), turned, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("contract", "looked_at"), [("off", 0), ("first_steps", 2), ("always", 5)])
def test_values_of_outputs_are_looked_at_as_often_as_the_contract_says(contract: Any, looked_at: int) -> None:
    plan = cp.compose([], loss=nn.NLLLoss(), inputs="features", contract=contract, **FACTS)
    logits = torch.tensor([[3.0, 1.0, 2.0]]).repeat(4, 1)
    refused = 0
    for _ in range(5):
        try:
            assert plan.loss(logits, Y).item() == pytest.approx(-(3 + 2 + 1 + 2) / 4)
        except cp.DataError:
            refused += 1
    assert refused == looked_at


@pytest.mark.parametrize("step", [-1, -512])
def test_a_step_below_0_is_refused_where_nothing_is_drawn_too(step: int) -> None:
    with pytest.raises(cp.ArgumentError, match=f"step is {step}"):
        cp.compose([Doubles()], inputs="features", **FACTS)(torch.rand(4, 2), Y, step=step)


class WritesWhereItMay(cp.Algorithm[None], name="writes_where_it_may"):
    """Twice the inputs, in the memory that the plan owns."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs.mul_(2) if batch.writable else batch.inputs * 2)


@pytest.mark.parametrize("methods", [1, 2])
def test_the_check_of_a_resumed_compiled_plan_edits_a_donated_batch_once(methods: int) -> None:
    composed = [WritesWhereItMay(id=f"number_{number}") for number in range(methods)]
    plan = cp.compose(composed, inputs="features", contract="first_steps", compile=True, **FACTS)
    given: Tensor = torch.arange(8.0).view(4, 2)
    edited, _ = plan(given.clone(), Y, step=40, donate=True)
    assert torch.equal(edited, given * 2**methods)


class Reaches(cp.Algorithm[None], name="reaches"):
    """Writes into a tensor that another step had before it, on the batches after the first edit."""

    @cp.transform(inputs=cp.CONTINUOUS, targets=cp.MIXABLE, law=cp.Law.CONVEX)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        REACHED[0].add_(1)
        return batch.with_inputs(batch.inputs + 0).with_targets(batch.targets + 0)


class Renews(cp.Algorithm[None], name="renews"):
    """New tensors with the values of the old."""

    @cp.transform(inputs=cp.CONTINUOUS, targets=cp.MIXABLE, law=cp.Law.CONVEX)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs + 0).with_targets(batch.targets + 0)


REACHED: list[Tensor] = []


@pytest.mark.parametrize("reached", [0, 1, 2, 3])
def test_a_write_into_any_tensor_of_the_callers_is_found_after_it_left_the_batch(reached: int) -> None:
    plan = cp.compose([Renews(before="reaches"), Reaches()], inputs="features", **FACTS)
    given = (torch.rand(4, 2), torch.rand(4, 2), torch.rand(4, 2))
    targets = nn.functional.one_hot(Y, 3).float()
    REACHED[:] = [(*given, targets)[reached]]
    with pytest.raises(cp.ContractError, match="reaches, at step 9: it writes into a tensor that the caller gave"):
        plan(given, targets, step=9)


class Fails(cp.Algorithm[None], name="fails"):
    """Two edits, one of which fails."""

    second: bool = False

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def one(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch if self.second else self._fail()

    @cp.transform(targets=cp.MIXABLE, law=cp.Law.REDISTRIBUTE)
    def other(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return self._fail() if self.second else batch

    def _fail(self) -> cp.Batch:
        raise IndexError("no such class")


@pytest.mark.parametrize("second", [False, True])
def test_an_error_of_a_branch_with_several_edits_names_the_choice_and_not_one_edit(second: bool) -> None:
    choice = OneOf(algorithms=[Fails(second=second), Fails(id="alike", second=second)])
    plan = cp.compose([choice], inputs="features", **FACTS)
    for step in range(3):
        with pytest.raises(cp.MethodError, match=rf"^one_of failed at step {step}: IndexError: no such class"):
            plan(torch.rand(4, 2), Y, step=step)


@pytest.mark.slow
def test_beyond_the_cap_a_compiled_plan_edits_by_and_lists_the_methods_that_act_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Label smoothing shows in the smallest target, a mixer in the draws, and each that does not act in neither."""
    monkeypatch.setattr(compilation, "ACTIVE_SETS", 1)
    torch._dynamo.reset()
    chain = [OneOf(algorithms=[MixUp(), CutMix(p=0.5)], p=0.5), LabelSmoothing(p=0.5), CutOut(p=0.5)]
    plan = cp.compose(chain, loss=nn.CrossEntropyLoss(), contract="off", seed=5, **FACTS)
    engine, spec = cp.Engine(replace(plan, backend="eager"), model=nn.Linear(1, 3)), cp.BatchSpec(4, (1, 6, 6), 3)
    seen = set()
    for step in range(40):
        inputs = torch.rand(4, 1, 6, 6) + 1
        with engine.batch(inputs, Y) as batch:
            listed, known = engine.draws(), plan.draws(step, spec)
        assert {name for name, drawn in listed.items() if drawn is not None} == known.keys()
        assert ("label_smoothing" in listed) is bool(batch.targets.min() > 0)
        mixed, cut = {"one_of.mixup", "one_of.cutmix"} & known.keys(), "cutout" in known
        assert mixed <= {known.get("one_of")}
        if not mixed:
            left = batch.inputs != 0
            assert torch.equal(batch.targets.argmax(1), Y)
            assert torch.equal(batch.inputs[left], inputs[left])
            assert bool(left.all()) is not cut
        seen.add((known.get("one_of"), *mixed, cut, "label_smoothing" in listed))
    assert len(seen) > 8


SAMPLES = frozenset({cp.Axis.SAMPLE})


class Halves(cp.Algorithm[Tensor], name="halves"):
    """A drawn half of the samples, by a code that no compiler takes."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.permutation(batch.size)[: batch.size // 2]

    @cp.transform(
        inputs=cp.Edit(frozenset({cp.FEATURES}), acts=SAMPLES, resizes=True),
        targets=cp.Edit(frozenset({cp.INDEX}), acts=SAMPLES, resizes=True),
        eager=True,
    )
    def apply(self, batch: cp.Batch, draws: Tensor) -> cp.Batch:
        return batch.with_inputs(batch.inputs[draws]).with_targets(batch.targets[draws])


@pytest.mark.parametrize("several", [False, True])
def test_draws_and_original_targets_are_those_of_the_samples_that_are_left(several: bool) -> None:
    plan = cp.compose([Halves(id="first"), Halves(id="second")], inputs="features", task="multiclass", num_classes=16)
    engine = cp.Engine(plan, model=nn.Linear(1, 16))
    numbers = torch.arange(16).flip(0)
    inputs = numbers[:, None].float()
    for _ in range(3):
        with engine.batch((inputs, -inputs) if several else inputs, numbers) as batch:
            draws, original = engine.draws(), engine.original
        left = numbers[draws["first"]][draws["second"]]
        assert [len(draws["first"]), len(draws["second"])] == [8, 4]
        assert torch.equal(original, left)
        assert torch.equal(batch.targets, left)
        for sign, tensor in zip((1, -1), batch.all_inputs, strict=False):
            assert torch.equal(tensor, sign * left[:, None].float())


class DrawsAndAsks(cp.Algorithm[None], name="draws_and_asks"):
    """Draws from the global generator before it asks for the losses."""

    @cp.transform(
        inputs=cp.Edit(frozenset({cp.FEATURES}), acts=SAMPLES, resizes=True),
        targets=cp.Edit(frozenset({cp.INDEX}), acts=SAMPLES, resizes=True),
        unedited=True,
        sample_losses=True,
    )
    def apply(self, batch: cp.Batch, draws: None, losses: Callable[[], Tensor]) -> cp.Batch:
        torch.rand(())
        losses()
        return batch


def test_a_draw_before_the_losses_are_asked_for_is_named_with_its_step() -> None:
    plan = cp.compose([DrawsAndAsks()], loss=nn.CrossEntropyLoss(), inputs="features", **FACTS)
    engine = cp.Engine(plan, model=nn.Linear(2, 3), rank=5)
    engine.batches = 7
    with (
        pytest.raises(
            cp.ContractError, match=r"draws_and_asks\.apply, at step 7 draws from the global generator of torch"
        ),
        engine.batch(torch.rand(4, 2), Y),
    ):
        pass


class Fixed(cp.Algorithm[None], name="fixed"):
    """An edit without a gradient."""

    @cp.transform(inputs=cp.Edit(cp.CONTINUOUS, form=cp.Form.NONLINEAR, differentiable=False))
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs.round())


class Cuts(cp.Algorithm[None], name="cuts"):
    """Declares a gradient, and cuts it off."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs.detach() * 2)


@pytest.mark.parametrize(("before", "after"), [(["fixed"], []), ([], ["fixed"])])
def test_a_step_without_a_gradient_is_refused_wherever_it_stands(before: list[str], after: list[str]) -> None:
    plan = cp.compose([Doubles(before=before, after=after), Fixed()], inputs="features", **FACTS)
    with pytest.raises(cp.DataError, match="fixed has no gradient with respect to inputs"):
        plan(torch.rand(4, 2).requires_grad_(), Y, step=0)


@pytest.mark.parametrize("required", [0, 1, 2])
def test_a_gradient_that_is_cut_off_in_any_input_is_found(required: int) -> None:
    plan = cp.compose([Cuts()], inputs="features", contract="off", **FACTS)
    given = tuple(torch.rand(4, 2).requires_grad_(number == required) for number in range(3))
    with pytest.raises(cp.ContractError, match="cuts cuts off the gradient of the inputs"):
        plan(given, Y, step=0)


def test_the_first_ignored_sample_is_named_where_the_loss_knows_none() -> None:
    plan = cp.compose(["label_smoothing"], loss=nn.BCEWithLogitsLoss(), inputs="features", **FACTS)
    with pytest.raises(cp.DataError, match="the first is sample 1"):
        plan(torch.rand(4, 2), torch.tensor([0, -100, 2, -100]), step=0)


class Spreads(cp.Algorithm[None], name="spreads"):
    """Averages each position's targets with those of its neighbour."""

    @cp.transform(targets=cp.Edit(cp.MIXABLE, acts=frozenset({cp.Axis.POSITION}), form=cp.Form.AVERAGE))
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_targets((batch.targets + batch.targets.roll(1, -1)) / 2)


def test_positions_may_be_averaged_with_ignored_ones() -> None:
    facts = {**FACTS, "task": "segmentation"}
    plan = cp.compose([Spreads()], loss=nn.CrossEntropyLoss(), inputs="image", contract="always", **facts)
    targets = torch.tensor([[[0, -100], [1, 2]]])
    _, edited = plan(torch.rand(1, 3, 2, 2), targets, step=0)
    assert torch.equal(edited.sum(1), torch.tensor([[[0.5, 0.5], [1.0, 1.0]]]))


def test_numbers_to_regress_on_are_not_compared_with_a_number_of_classes() -> None:
    rows = cp.OutputKind("rows", class_axis=True)
    loss = cp.LossSpec("own", nn.functional.mse_loss, frozenset({cp.REAL}), outputs=rows)
    plan = cp.compose([], loss=loss, task="regression", num_classes=3, inputs="features")
    assert plan.loss(torch.zeros(4, 5), torch.full((4, 5), 2.0)).item() == 4


@pytest.mark.slow
def test_a_compiled_plan_edits_every_input_of_every_batch() -> None:
    plan = replace(cp.compose([Doubles()], inputs="features", contract="off", **FACTS), backend="eager")
    for step in range(4):
        given = tuple(torch.rand(4, 2) for _ in range(3))
        edited, _ = plan(given, Y, step=step)
        assert all(torch.equal(after, before * 2) for before, after in zip(given, edited, strict=True))
