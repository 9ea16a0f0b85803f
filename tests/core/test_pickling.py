"""Plans, algorithms and errors are pickled, copied and sent to other processes, and stay what they are."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core import errors
from counterpoint.losses import BinaryFocalLoss, FocalLoss
from tests.algorithms.batches import bits, images, plan_for, targets
from tests.algorithms.cases import CASES, EditCase

pytestmark = [pytest.mark.kind("12"), pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]

WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0])
LOSSES: list[tuple[nn.Module, str]] = [
    (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1, ignore_index=2), "multiclass"),
    (nn.NLLLoss(weight=WEIGHT, reduction="sum"), "multiclass"),
    (FocalLoss(gamma=1.5, weight=WEIGHT), "multiclass"),
    (nn.KLDivLoss(reduction="batchmean"), "multiclass"),
    (nn.BCEWithLogitsLoss(pos_weight=WEIGHT), "multilabel"),
    (nn.BCELoss(weight=WEIGHT), "multilabel"),
    (BinaryFocalLoss(alpha=0.25), "multilabel"),
    (nn.MSELoss(), "regression"),
    (nn.L1Loss(reduction="sum"), "regression"),
]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


ways = pytest.mark.parametrize("way", [pickled, copy.deepcopy], ids=["pickle", "deepcopy"])
Way = Callable[[Any], Any]


@ways
@pytest.mark.parametrize("name", CASES)
def test_every_method_stays_equal(name: str, way: Way) -> None:
    for case in CASES[name]:
        there = way(case.algorithm)
        assert there == case.algorithm
        assert type(there) is type(case.algorithm)
        assert there.declared() == case.algorithm.declared()


@pytest.mark.slow
@ways
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if isinstance(cases[0], EditCase)])
def test_a_plan_of_every_method_gives_the_same_bits(name: str, compiled: bool, way: Way) -> None:
    case = CASES[name][0]
    assert isinstance(case, EditCase)
    plan = plan_for([case.algorithm], case.tasks[0], inputs=case.inputs[0])
    plan = replace(plan, backend="eager") if compiled else plan
    batch = images(5, kind=case.inputs[0]), targets(5, case.tasks[0])
    for step in range(6):  # before any batch is run, and between any two
        there = way(plan)
        assert there.fingerprint == plan.fingerprint
        assert (there.runner.compiled is None) is (plan.backend is None)
        wanted, found = plan(*batch, step=step), there(*batch, step=step)
        assert [bits(part) for part in found] == [bits(part) for part in wanted]


@ways
@pytest.mark.parametrize(("loss", "task"), LOSSES, ids=lambda value: type(value).__name__)
def test_every_loss_stays_the_same_and_its_weights_are_its_own(loss: nn.Module, task: str, way: Way) -> None:
    plan = plan_for(["mixup"], task, loss=loss)
    there = way(plan)
    outputs = torch.rand(5, 2 if task == "regression" else 4).log_softmax(1)
    outputs = outputs.exp() if task == "multilabel" else outputs
    _, given = plan(images(5), targets(5, task), step=3)
    spec, other = plan.loss_spec, there.loss_spec
    assert spec is not None
    assert torch.equal(there.loss(outputs, given), plan.loss(outputs, given))
    assert spec.each is not None
    assert torch.equal(other.each(outputs, given), spec.each(outputs, given))
    if spec.denominator is not None:
        assert torch.equal(other.denominator(given), spec.denominator(given))
    weight = getattr(loss, "weight", None)
    if weight is not None:
        before = plan.loss(outputs, given)
        there.loss_spec.function.func.module.weight.mul_(0)
        assert torch.equal(plan.loss(outputs, given), before)


def own_loss(outputs: Tensor, given: Tensor) -> Tensor:
    return -(given * outputs.log_softmax(1)).sum(1).mean()


def test_a_plan_with_hooks_and_a_loss_of_ones_own_runs_in_an_engine_there() -> None:
    plan = plan_for(["mixup", "ema", "sam", "gradient_clipping"], loss=own_loss, loss_accepts={"dense"})
    found = []
    for each in (plan, pickled(plan), copy.deepcopy(plan)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(105, 4))
        engine = cp.Engine(each, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for _ in range(3):
            with engine.batch(images(5), targets(5)) as batch:

                def closure(engine: cp.Engine = engine, batch: cp.Batch = batch) -> Tensor:
                    loss = engine.plan.loss(engine.model(batch.inputs), batch.targets)
                    loss.backward()
                    return loss.detach()

                engine.step(closure)
        found.append([bits(parameter) for parameter in model.parameters()])
    assert found[0] == found[1] == found[2]


def test_a_copy_goes_on_with_the_checks_and_has_seen_no_step() -> None:
    plan = plan_for(["mixup"])
    for step in range(2):
        plan(images(4), targets(4), step=step)
    there = pickled(plan)
    assert not there.runner.progress.due(there.contract, ["mixup.apply"])
    assert not plan.runner.progress.due(plan.contract, ["mixup.apply"])
    assert pickled(plan_for(["mixup"])).runner.progress.due(plan.contract, ["mixup.apply"])


def edited(plan: cp.Plan, steps: int) -> list[bytes]:
    """Return the bits of what a plan gives, and of its loss; called in other processes."""
    torch.set_num_threads(1)
    found = []
    for step in range(steps):
        x, y = plan(images(5), targets(5), step=step)
        found += [bits(x), bits(y), bits(plan.loss(x.flatten(1)[:, :4], y))]
    return found


def refused(faulty: list[Any]) -> None:
    """Raise in another process what composing raises."""
    cp.compose(faulty, task="multiclass")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_plans_and_errors_cross_processes(method: str) -> None:
    plans = [
        plan_for(methods, loss=nn.CrossEntropyLoss(weight=WEIGHT)) for methods in (["mixup", "cutout"], ["cutmix"])
    ]
    plans.append(replace(plans[0], backend="eager", contract=plans[0].contract))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        there = [pool.submit(edited, plan, 5) for plan in plans]
        failed = pool.submit(refused, ["mixpu", "mixup", "cutmix"])
        assert [future.result() for future in there] == [edited(plan, 5) for plan in plans]
        error = failed.exception()
    with pytest.raises(cp.CompositionError) as wanted:
        refused(["mixpu", "mixup", "cutmix"])
    assert isinstance(error, cp.CompositionError)
    assert error.faults == wanted.value.faults
    assert str(error) == str(wanted.value)


def raised() -> Iterator[errors.CounterpointError]:
    """Make one error of each class, those with more than a message from what raises them."""
    for name in errors.__all__:
        kind = getattr(errors, name)
        if not (isinstance(kind, type) and issubclass(kind, errors.CounterpointError)):
            continue
        if kind is errors.DeclarationError:
            yield kind("@transform()", "it declares nothing", "@transform(inputs=CONTINUOUS)")
        elif kind is errors.CompositionError:
            yield kind([cp.Fault("two-mixers", "mixed twice", "keep one", ("mixup", "cutmix"), cp.Event.BATCH)])
        elif kind is errors.ConfigError:
            yield kind("wrong", [cp.Fault("bad-setting", "alpha is -1", "give at least 0")])
        else:
            yield kind("what went wrong")


@ways
@pytest.mark.parametrize("error", [*raised()], ids=lambda error: type(error).__name__)
def test_errors_stay_what_they_are(error: errors.CounterpointError, way: Way) -> None:
    error.add_note("a note")
    there = way(error)
    assert type(there) is type(error)
    assert (str(there), there.args, vars(there)) == (str(error), error.args, vars(error))
