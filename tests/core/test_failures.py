"""An error in the code of a method names the method, the step and the line, and has the error itself as its cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core import Facts, compose
from counterpoint.core.declare.effects import Contract
from counterpoint.core.declare.kinds import TASKS
from counterpoint.core.plan.schedule import Clock
from counterpoint.core.run.failures import describe_error
from tests.core.methods import Scale, resolve

pytestmark = pytest.mark.kind("26")

HERE = re.escape(__file__)
FACTS = Facts(TASKS["multiclass"], cp.FEATURES, 4, clock=Clock(10, 100))


class Fault(Exception):
    """What only the code of a method raises."""


class Failing(cp.Algorithm[int], name="failing"):
    """Fails in one of its parts, on the third batch."""

    part: str = "apply"

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> int:
        return self._fail("draw", 0)

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: int) -> cp.Batch:
        self._fail("apply", draws)
        return batch.with_inputs(batch.inputs * 2)

    @cp.before(cp.Event.FORWARD, reads="outputs")
    def early(self, state: None, scope: cp.Scope) -> None:
        self._fail("early", 0)

    @cp.after(cp.Event.BACKWARD, reads="gradients")
    def late(self, state: None, scope: cp.Scope) -> None:
        self._fail("late", 0)

    @cp.around(cp.Event.FORWARD, writes="modules")
    def inside(self, state: None, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        self._fail("enter", 0)
        yield
        self._fail("leave", 0)

    @cp.replace(cp.Event.STEP, writes="gradients")
    def instead(self, state: None, scope: cp.Scope, run: Callable[[], Tensor]) -> Tensor:
        loss = run()
        self._fail("instead", 0)
        return loss

    def _fail(self, part: str, draws: int) -> int:
        if self.part == part and COUNT["batches"] == 3:
            raise Fault(f"in {part}")
        return draws


COUNT = {"batches": 0}
METHODS = {"enter": "inside", "leave": "inside"}


@pytest.fixture(params=list(Contract), ids=str)
def contract(request: pytest.FixtureRequest) -> Contract:
    COUNT["batches"] = 0
    return request.param


def train(algorithm: cp.Algorithm[Any], contract: Contract, loss: Callable[[Tensor], Tensor] = Tensor.sum) -> None:
    plan = compose([Scale(), algorithm], resolve=resolve, facts=FACTS, contract=contract)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    engine = cp.Engine(plan, model=model, optimizer=optimizer)
    with engine.fit():
        for _ in range(5):
            COUNT["batches"] += 1
            with engine.batch(torch.ones(6, 4), torch.zeros(6, dtype=torch.int64)) as batch:

                def closure(batch: cp.Batch = batch) -> Tensor:
                    optimizer.zero_grad()
                    with engine.forward():
                        outputs = model(batch.inputs)
                    with engine.loss():
                        value = loss(outputs)
                    with engine.backward():
                        value.backward()
                    return value

                engine.step(closure)


@pytest.mark.parametrize("part", ["draw", "apply", "early", "late", "enter", "leave", "instead"])
def test_the_method_the_step_and_the_line_are_named(part: str, contract: Contract) -> None:
    said = rf"failing\.{METHODS.get(part, part)} failed at step 2: Fault: in {part} \({HERE}, line \d+\)"
    with pytest.raises(cp.MethodError, match=said) as caught:
        train(Failing(part=part), contract)
    assert isinstance(caught.value.__cause__, Fault)


def test_an_error_of_the_pass_is_not_the_methods(contract: Contract) -> None:
    def fail(outputs: Tensor) -> Tensor:
        raise Fault("in the loss")

    with pytest.raises(Fault, match="in the loss") as caught:
        train(Failing(part="none"), contract, fail)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("error", [cp.DataError("masks are missing"), torch.OutOfMemoryError("no memory left")])
def test_errors_that_say_it_themselves_pass(error: Exception, contract: Contract) -> None:
    class Passing(Scale, name="passing"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            raise error

    plan = compose([Passing()], resolve=resolve, facts=FACTS, contract=contract)
    with pytest.raises(type(error)) as caught:
        plan(torch.ones(6, 4), torch.zeros(6, dtype=torch.int64), step=0)
    assert caught.value is error


def test_the_line_is_that_outside_torch() -> None:
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 2)(torch.ones(3))
    assert re.search(rf"^RuntimeError: .*\({HERE}, line \d+\)$", describe_error(caught.value), re.DOTALL)
