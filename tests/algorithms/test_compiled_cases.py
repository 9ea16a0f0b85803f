"""Every method that edits batches gives the same numbers in a compiled plan as step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.algorithms.batches import images, plan_for, targets
from tests.algorithms.cases import CASES, EditCase

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, cases in CASES.items() if isinstance(cases[0], EditCase)])
def test_compiled_it_does_the_same(name: str) -> None:
    for case in CASES[name]:
        assert isinstance(case, EditCase)
        torch._dynamo.reset()
        task, kind = case.tasks[0], case.inputs[0]
        plan = plan_for([case.algorithm], task, inputs=kind, contract="off")
        fast = replace(plan, backend="eager")
        for step in range(4):
            batch = images(5, kind=kind), targets(5, task)
            torch.testing.assert_close(fast(*batch, step=step), plan(*batch, step=step))
