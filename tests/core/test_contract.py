"""The contract check: what a step or hook does and did not declare is found, with its name and the line to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, CutMix, CutOut, LabelSmoothing, MixUp

FACTS: dict[str, Any] = {"task": "multiclass", "num_classes": 3, "contract": "always"}
INPUTS, TARGETS = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])


def run(apply: Callable[[cp.Batch], cp.Batch], **settings: Any) -> None:
    class Odd(cp.Algorithm[None], name="odd"):
        @cp.transform(**{"inputs": cp.CONTINUOUS, "law": cp.Law.RESCALE, **settings.pop("declared", {})})
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return edit(batch)

    edit = apply
    plan = cp.compose([Odd()], **{**FACTS, **settings})
    plan(INPUTS.clone(), TARGETS.clone(), step=settings.get("step", 0))


DENSE = {"inputs": None, "targets": cp.MIXABLE, "law": cp.Law.REDISTRIBUTE}


@pytest.mark.parametrize(
    ("edit", "declared", "word"),
    [
        (lambda batch: batch.with_targets(batch.targets.flip(0)), {}, "edits targets and does not declare it"),
        (lambda batch: batch.with_inputs(batch.inputs[..., :3]), {}, "resizes=True"),
        (lambda batch: batch.with_inputs(batch.inputs.add_(1)), {}, "writes into the inputs"),
        (lambda batch: (batch.inputs.numpy().fill(1), batch)[1], {}, "writes into the inputs"),
        (lambda batch: (batch.targets.data.add_(0).mul_(0), batch)[1], {}, "writes into the targets"),
        (lambda batch: batch.with_targets(batch.targets * 2), DENSE, "mass 2"),
        (lambda batch: batch.with_targets(batch.targets * 0.5), DENSE, "mass 0.5"),
        (lambda batch: batch.with_targets(batch.targets - 1), DENSE, "at least 0"),
        (lambda batch: batch.with_targets(batch.targets / 0), DENSE, "finite"),
    ],
)
def test_a_step_that_breaks_its_word(edit: Callable[[cp.Batch], cp.Batch], declared: dict[str, Any], word: str) -> None:
    with pytest.raises(cp.ContractError) as caught:
        run(edit, declared=declared)
    message = str(caught.value)
    assert word in message
    assert re.search(r"odd, at step 0: .*test_contract\.py:\d+", message)


def test_the_first_steps_are_held_to_it_by_default_and_none_when_it_is_off() -> None:
    class Late(cp.Algorithm[None], name="late"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_targets(batch.targets.flip(0))

    for contract, caught in (("first_steps", [True, True, False]), ("always", [True] * 3), ("off", [False] * 3)):
        plan = cp.compose([Late()], **{**FACTS, "contract": contract})
        for step, expected in enumerate(caught):
            if expected:
                with pytest.raises(cp.ContractError):
                    plan(INPUTS, TARGETS, step=step)
            else:
                plan(INPUTS, TARGETS, step=step)


def test_the_contract_is_no_part_of_what_the_plan_does() -> None:
    prints = {cp.compose([MixUp()], **{**FACTS, "contract": word}).fingerprint for word in ("off", "always")}
    assert len(prints) == 1


@pytest.mark.parametrize("mixer", [MixUp(), CutMix()])
def test_the_built_in_methods_keep_theirs(mixer: cp.Algorithm[Any]) -> None:
    plan = cp.compose([LabelSmoothing(), mixer, CutOut(num_holes=2)], **FACTS)
    for step in range(5):
        plan(INPUTS, torch.tensor([0, -100, 2, 0]), step=step)
        plan(INPUTS.clone(), TARGETS, step=step, donate=True)


def engine_of(algorithm: cp.Algorithm[Any]) -> cp.Engine:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    plan = cp.compose([algorithm], **FACTS)
    return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def step_of(engine: cp.Engine) -> None:
    with engine.batch(INPUTS, TARGETS) as batch:

        def closure() -> Tensor:
            loss = nn.functional.cross_entropy(engine.model(batch.inputs), TARGETS)
            loss.backward()
            return loss.detach()

        engine.step(closure)


def test_a_hook_that_writes_what_it_only_reads() -> None:
    class Sneaky(cp.Algorithm[None], name="sneaky"):
        @cp.after(cp.Event.STEP, reads="parameters")
        def look(self, state: object, scope: cp.Scope) -> None:
            for parameter in scope.model.parameters():
                parameter.data.mul_(2)

    with pytest.raises(cp.ContractError, match=r"sneaky.look writes parameters .*test_contract\.py:\d+"):
        step_of(engine_of(Sneaky()))


def test_a_hook_that_does_not_restore_what_it_said() -> None:
    class Forgets(cp.Algorithm[None], name="forgets"):
        @cp.around(cp.Event.EVALUATION, writes="parameters", restores="parameters")
        def swap(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
            for parameter in scope.model.parameters():
                parameter.data.mul_(2)
            yield

    with (
        pytest.raises(cp.ContractError, match="restores the parameters, and left others"),
        engine_of(Forgets()).evaluation(),
    ):
        pass


def test_ema_keeps_its_word() -> None:
    engine = engine_of(EMA(half_life=1.0))
    for _ in range(3):
        step_of(engine)
        with engine.evaluation():
            pass


def test_samples_are_chosen_by_their_losses_on_the_unedited_batch() -> None:
    seen: list[Tensor] = []

    class Worst(cp.Algorithm[None], name="worst"):
        @cp.transform(
            inputs=cp.Edit(cp.CONTINUOUS, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
            targets=cp.Edit(cp.MIXABLE | {cp.INDEX}, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
            claims=cp.BATCH_SIZE,
            unedited=True,
            sample_losses=True,
        )
        def apply(self, batch: cp.Batch, draws: None, losses: Callable[[], Tensor]) -> cp.Batch:
            worst = losses().topk(2).indices
            seen.append(losses())
            return batch.with_inputs(batch.inputs[worst]).with_targets(batch.targets[worst])

    def each(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    loss = cp.LossSpec("each", nn.functional.cross_entropy, frozenset({cp.INDEX, cp.DENSE}), each=each)
    plan = cp.compose([MixUp(), CutOut(), Worst()], loss=loss, **FACTS)
    assert plan.order[:2] == ("dense_targets", "worst")
    with pytest.raises(cp.EngineRequiredError, match="worst"):
        plan(INPUTS, TARGETS, step=0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(36, 3)).train()
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with engine.batch(INPUTS, TARGETS) as batch:
        assert len(batch.inputs) == len(batch.targets) == 2
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        assert torch.allclose(seen[0], each(model.eval()(INPUTS), TARGETS))


class Kept(cp.Algorithm[None], name="kept"):
    """Keeps the first half of the samples, whatever their losses, which it asks for."""

    @cp.transform(
        inputs=cp.Edit(cp.IMAGES, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
        targets=cp.Edit(cp.MIXABLE | {cp.INDEX}, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
        unedited=True,
        sample_losses=True,
    )
    def apply(self, batch: cp.Batch, draws: None, losses: Callable[[], Tensor]) -> cp.Batch:
        half = len(losses()) // 2
        return batch.with_inputs(batch.inputs[:half]).with_targets(batch.targets[:half])


def kept(each: Callable[[Tensor, Tensor], Tensor], *algorithms: object, **facts: Any) -> cp.Batch:
    loss = cp.LossSpec("each", nn.functional.cross_entropy, frozenset({cp.INDEX, cp.DENSE}), each=each)
    plan = cp.compose([Kept(), *algorithms], loss=loss, **{**FACTS, **facts})
    engine = cp.Engine(plan, model=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    inputs = INPUTS if facts.get("inputs") != "bytes" else (INPUTS * 255).to(torch.uint8)
    with engine.batch(inputs, TARGETS) as batch:
        return batch


def test_losses_are_one_number_for_each_sample() -> None:
    with pytest.raises(cp.DataError, match=r"losses of shape \(4, 3\) for 4 samples"):
        kept(lambda outputs, targets: outputs)


def test_draws_are_for_the_samples_that_are_left_and_not_for_those_of_the_extra_pass() -> None:
    class Noise(cp.Algorithm[Tensor], name="noise"):
        def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
            return rng.normal(size=(batch.size,)).float()

        @cp.transform(inputs=cp.Edit(frozenset({cp.BYTES}), gives=cp.NORMALIZED, form=cp.Form.AFFINE))
        def apply(self, batch: cp.Batch, draws: Tensor) -> cp.Batch:
            return batch.with_inputs(batch.inputs / 255 + draws[:, None, None, None])

    batch = kept(lambda outputs, targets: outputs.sum(1), Noise(), inputs="bytes")
    assert len(batch.inputs) == 2


def _careless(edit: Callable[[cp.Batch], cp.Batch]) -> cp.Algorithm[Any]:
    class Careless(cp.Algorithm[None], name="careless"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return edit(batch)

    return Careless()


def _flipped(batch: cp.Batch) -> cp.Batch:
    return batch.with_targets(batch.targets.flip(0))


@pytest.mark.kind("3")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_plan_is_checked_on_the_first_batches_of_a_start_wherever_it_begins(compiled: bool) -> None:
    """A loop of one's own that is resumed calls a new plan at a step in the middle of the run."""
    plan = cp.compose([_careless(_flipped)], **{**FACTS, "contract": "first_steps", "compile": compiled})
    for step in (7, 8):
        with pytest.raises(cp.ContractError, match=rf"careless, at step {step}: it edits targets"):
            plan(INPUTS, TARGETS, step=step)
    if not compiled:
        assert torch.equal(plan(INPUTS, TARGETS, step=9)[1], TARGETS.flip(0))


@pytest.mark.kind("3")
def test_an_engine_is_checked_after_every_start() -> None:
    """Each engine is a start of its own, also where it takes up a state, and where another one used the plan before."""
    plan = cp.compose([_careless(_flipped)], **{**FACTS, "contract": "first_steps"})
    for began in (0, 40, 50):
        model = nn.Linear(36, 3)
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        engine.load_state_dict({"batches": torch.tensor(began)}, allow_changes=True)
        for number in range(3):
            if number < 2:
                with pytest.raises(cp.ContractError, match=rf"at step {began}"), engine.batch(INPUTS, TARGETS):
                    pass
        engine.batches = began + 2
        with engine.batch(INPUTS, TARGETS) as batch:
            assert torch.equal(batch.targets, TARGETS.flip(0))


@pytest.mark.kind("3")
def test_the_check_of_a_resumed_compiled_plan_changes_no_batch() -> None:
    """The compiled edit is what the run that was not interrupted had at this step; the check runs beside it."""
    calls: list[str] = []

    class Function:
        def run(self, batch: cp.Batch, chain: Callable[..., Any]) -> cp.Batch:
            calls.append("compiled")
            return batch.with_inputs(batch.inputs + 1)

    def scaled(batch: cp.Batch) -> cp.Batch:
        calls.append("eager")
        return batch.with_inputs(batch.inputs * 2)

    plan = cp.compose([_careless(scaled)], **{**FACTS, "contract": "first_steps"})
    plan = replace(plan)
    plan.runner.compiled = Function()  # type: ignore[assignment]
    inputs = INPUTS.clone()
    found = [plan(inputs, TARGETS, step=step, donate=True)[0] for step in (5, 6, 7)]
    assert calls == ["eager", "compiled", "eager", "compiled", "compiled"]
    assert torch.equal(inputs, INPUTS)
    assert all(torch.equal(edited, INPUTS + 1) for edited in found)
    calls.clear()
    plan = replace(plan)
    plan.runner.compiled = Function()  # type: ignore[assignment]
    assert [torch.equal(plan(INPUTS, TARGETS, step=step)[0], INPUTS * 2) for step in (0, 1, 2)] == [True, True, False]
    assert calls == ["eager", "eager", "compiled"]


class Meddles(cp.Algorithm[None], name="meddles"):
    """Does to the model what the test says, and declares that it looks at the loss."""

    @cp.after(cp.Event.STEP, reads="modules")
    def look(self, state: object, scope: cp.Scope) -> None:
        MEDDLING[0](scope.model)


MEDDLING: list[Callable[[nn.Module], object]] = []


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("meddle", "written"),
    [
        (lambda model: model[1].weight.data.view(-1)[-1].add_(1), "parameters"),
        (lambda model: model[1].bias.data.mul_(2), "parameters"),
        (lambda model: model[2].running_var.add_(1), "parameters"),
        (lambda model: model[2].num_batches_tracked.add_(1), "parameters"),
        (lambda model: model[1].bias.grad.add_(1), "gradients"),
        (lambda model: model[2].weight.grad.detach().numpy().fill(3), "gradients"),
    ],
)
def test_a_hook_that_writes_into_parameters_buffers_or_gradients(
    meddle: Callable[[nn.Module], object], written: str
) -> None:
    MEDDLING[:] = [meddle]
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3))
    plan = cp.compose([Meddles()], **FACTS)
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(cp.ContractError, match=rf"meddles\.look writes {written} and does not declare it"):
        step_of(engine)
    MEDDLING[:] = [lambda model: None]
    step_of(engine)


@pytest.mark.kind("30")
@pytest.mark.parametrize(("inputs", "targets"), [(2, 4), (4, 2), (3, 2)])
def test_a_step_that_leaves_other_numbers_of_inputs_and_targets(inputs: int, targets: int) -> None:
    fewer = frozenset({cp.Axis.SAMPLE})
    declared = {
        "inputs": cp.Edit(cp.CONTINUOUS, acts=fewer, resizes=True),
        "targets": cp.Edit(frozenset({cp.INDEX}), acts=fewer, resizes=True),
        "claims": cp.BATCH_SIZE,
        "law": None,
    }
    with pytest.raises(cp.ContractError, match=f"it leaves {inputs} inputs and {targets} targets"):
        run(
            lambda batch: batch.with_inputs(batch.inputs[:inputs]).with_targets(batch.targets[:targets]),
            declared=declared,
        )
    run(lambda batch: batch.with_inputs(batch.inputs[:2]).with_targets(batch.targets[:2]), declared=declared)


@pytest.mark.kind("30")
def test_a_label_above_1_is_refused() -> None:
    plan = cp.compose([], task="multilabel", num_classes=2)
    for wrong in (1.01, 1.5, 2.0):
        with pytest.raises(cp.DataError, match=r"multi_hot targets are at most 1; found [12]\.\d"):
            plan(INPUTS, torch.tensor([[0.0, 1.0], [wrong, 0.0], [1.0, 1.0], [0.5, 0.0]]), step=0)
    plan(INPUTS, torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]]), step=0)
