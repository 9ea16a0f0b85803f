"""What the printed plan says of microbatches."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from torch import nn

import counterpoint as cp

FACTS: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": 3, "inputs": "image"}


class Watch(cp.Algorithm[None], name="watch"):
    """A method that acts at every forward pass."""

    @cp.around(cp.Event.FORWARD, reads="modules")
    def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        yield


def _section(plan: cp.Plan) -> list[str]:
    lines = plan.explain().splitlines()
    if "microbatches" not in lines:
        return []
    begin = lines.index("microbatches") + 1
    end = next((at for at in range(begin, len(lines)) if not lines[at].startswith(" ")), len(lines))
    return lines[begin:end]


def test_one_part_is_not_worth_a_word() -> None:
    assert _section(cp.compose(["mixup", "sam", Watch()], **FACTS)) == []


def test_several_parts_and_what_runs_in_each() -> None:
    edited = "  each device batch is edited whole, then split into 4, whose gradients add up"
    assert _section(cp.compose(["mixup", "sam"], **FACTS, microbatches=4)) == [edited]
    assert _section(cp.compose(["mixup", Watch()], **FACTS, microbatches=4)) == [edited, "  in each of the 4: watch"]


def test_a_method_that_needs_the_whole_batch_says_so_before_it_is_split() -> None:
    plan = cp.compose([{"name": "manifold_mixup", "module": "0"}], **FACTS)
    assert _section(plan) == ["  none: in a forward pass manifold_mixup must see the whole device batch"]


@pytest.mark.kind("11")
@pytest.mark.parametrize(
    "algorithms",
    [[], ["mixup"], ["cutmix", "ema", "sam", {"name": "one_of", "algorithms": ["mixup", "cutout"]}]],
    ids=len,
)
@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss()], ids=type)
def test_a_plan_is_one_line_and_prints_as_its_explanation(algorithms: list[Any], loss: Any) -> None:
    plan = cp.compose(algorithms[:3], **{**FACTS, "loss": loss}, seed=17)
    line = repr(plan)
    assert "\n" not in line
    assert len(line) < 160
    named = f"order={plan.order}, task='multiclass', num_classes=3, inputs='image'"
    assert line == f"Plan({named}{', loss=' + repr(plan.loss_spec.name) if plan.loss_spec else ''}, seed=17)"
    assert str(plan) == f"{plan}" == plan.explain()
    assert "\n" in str(plan)


@pytest.mark.kind("11")
def test_a_plan_without_classes_does_not_name_them() -> None:
    assert repr(cp.compose(["mixup"], task="regression", inputs="features")) == (
        "Plan(order=('mixup',), task='regression', inputs='features', seed=0)"
    )
