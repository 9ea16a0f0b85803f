"""Every public function and class answers any object with an error of Counterpoint's, or takes it."""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import counterpoint as cp
import counterpoint.losses
from counterpoint import SMOOTHING
from tests.anything import anything, objects


def edit(self: Any, batch: Any, draws: Any) -> Any:
    return batch


def hook(self: Any, state: Any, scope: Any) -> None: ...


def span(self: Any, state: Any, scope: Any) -> Iterator[None]:
    yield


def step(self: Any, state: Any, scope: Any, run: Any) -> Any:
    return run()


PLAN = cp.compose(["mixup"], task="multiclass", num_classes=3)
HOOK: dict[str, Any] = {"event": cp.Event.STEP, "reads": "loss", "writes": (), "claims": ()}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Engine": (
        cp.Engine,
        {
            "plan": PLAN,
            "model": nn.Linear(2, 2),
            "optimizer": None,
            "rank": 0,
            "update": None,
            "predict": None,
            "scaler": None,
        },
    ),
    "Duration": (cp.Duration, {"value": 1.0, "unit": "ep"}),
    "Duration.parse": (cp.Duration.parse, {"text": "1ep"}),
    "BatchSpec": (cp.BatchSpec, {"size": 3, "shape": (1, 2), "num_classes": 2}),
    "Edit": (
        cp.Edit,
        {
            "needs": frozenset({cp.DENSE}),
            "gives": cp.DENSE,
            "acts": frozenset(),
            "varies": frozenset({cp.Axis.SAMPLE}),
            "form": cp.Form.SELECT,
            "fills": 0.5,
            "resizes": False,
            "differentiable": True,
        },
    ),
    "Kind": (cp.Kind, {"name": "boxes", "field": cp.Field.TARGETS, "meaning": "corners"}),
    "Slot": (cp.Slot, {"name": "a", "why": "b", "code": "two-owners", "per_batch": False, "remedy": "c"}),
    "Claim": (cp.Claim, {"slot": cp.MIXING.slot, "shared": False, "amount": 0.5}),
    "Task": (cp.Task, {"name": "a", "targets": cp.DENSE, "classes": True}),
    "LossSpec": (
        cp.LossSpec,
        {
            "name": "a",
            "function": nn.MSELoss(),
            "accepts": frozenset({cp.DENSE}),
            "claims": (SMOOTHING,),
            "ignore_index": -100,
            "denominator": None,
            "each": None,
            "classes": None,
            "outputs": None,
            "settings": None,
        },
    ),
    "OutputKind": (cp.OutputKind, {"name": "a", "wrong": str, "fix": "b", "class_axis": False}),
    "Fault": (cp.Fault, {"code": "bad-setting", "message": "a", "fix": "b"}),
    "Rng": (cp.Rng, {"seed": 0, "stream": "a", "step": 0, "rank": 0}),
    "transform": (
        lambda **given: cp.transform(**given)(edit),
        {
            "inputs": cp.CONTINUOUS,
            "targets": cp.MIXABLE,
            "law": cp.Law.CONVEX,
            "claims": cp.MIXING,
            "reads": (),
            "unedited": False,
            "sample_losses": False,
            "eager": False,
        },
    ),
    "transform of": (lambda method: cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX)(method), {"method": edit}),
    "before": (lambda **given: cp.before(**given)(hook), HOOK),
    "after": (lambda **given: cp.after(**given)(hook), HOOK),
    "after of": (lambda method: cp.after(cp.Event.STEP, reads="loss")(method), {"method": hook}),
    "around": (lambda **given: cp.around(**given)(span), {**HOOK, "restores": (), "whole_batch": False}),
    "replace": (lambda **given: cp.replace(**given)(step), HOOK),
}


def of_loss(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return a public function or class of ``counterpoint.losses`` with arguments that it takes."""
    made = getattr(counterpoint.losses, name)
    parameters = inspect.signature(made).parameters
    given = {key: p.default for key, p in parameters.items() if p.default is not inspect.Parameter.empty}
    if "outputs" in parameters:
        given |= {"outputs": torch.full((3, 3), 1 / 3), "targets": torch.eye(3)}
    return made, given | ({"loss": nn.MSELoss()} if "loss" in parameters else {})


LOSSES = [name for name in counterpoint.losses.__all__ if inspect.isfunction(getattr(counterpoint.losses, name))]
CALLS |= {name: of_loss(name) for name in [*LOSSES, "FocalLoss", "BinaryFocalLoss"]}


@pytest.mark.slow
@pytest.mark.kind("10")
@pytest.mark.kind("20")
@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_object_is_taken_or_refused_by_counterpoint(name: str, data: st.DataObject) -> None:
    call, right = CALLS[name]
    call(**right)
    wrong = data.draw(st.dictionaries(st.sampled_from(sorted(right)), objects | anything, min_size=1, max_size=2))
    with contextlib.suppress(cp.CounterpointError):
        call(**{**right, **wrong})


WRONG: list[tuple[str, str, Any]] = [
    ("Engine", "plan", None),
    ("Engine", "model", PLAN),
    ("Engine", "optimizer", 3),
    ("Engine", "rank", 1.0),
    ("Engine", "rank", True),
    ("Engine", "update", 3),
    ("Engine", "predict", "model"),
    ("Engine", "scaler", 65536.0),
    ("Duration", "value", -1),
    ("Duration", "value", float("nan")),
    ("Duration", "value", 2e12),
    ("Duration", "value", True),
    ("Duration", "value", "1"),
    ("Duration", "unit", "epochs"),
    ("Duration", "unit", None),
    ("Duration.parse", "text", 3),
    ("Duration.parse", "text", "１ep"),
    ("Duration.parse", "text", "1.5ba"),
    ("Duration.parse", "text", "1.5dur"),
    ("BatchSpec", "size", 3.0),
    ("BatchSpec", "size", True),
    ("BatchSpec", "size", -1),
    ("BatchSpec", "shape", 3),
    ("BatchSpec", "shape", (1, 2.0)),
    ("BatchSpec", "num_classes", 0),
    ("LossSpec", "name", 3),
    ("LossSpec", "function", None),
    ("LossSpec", "accepts", frozenset()),
    ("LossSpec", "accepts", {cp.IMAGE}),
    ("LossSpec", "accepts", {"dense"}),
    ("LossSpec", "claims", SMOOTHING),
    ("LossSpec", "ignore_index", 1.0),
    ("LossSpec", "denominator", 3),
    ("LossSpec", "each", 3),
    ("LossSpec", "classes", 0),
    ("LossSpec", "outputs", "logits"),
    ("Rng", "seed", 1.0),
    ("Rng", "stream", 3),
    ("Rng", "step", True),
    ("Rng", "rank", "0"),
    ("transform", "law", "convex"),
    ("transform", "inputs", {"image"}),
    ("transform", "inputs", {cp.DENSE}),
    ("transform", "claims", "mixing"),
    ("transform", "reads", "labels"),
    ("transform", "eager", 1),
    ("transform of", "method", 3),
    ("after", "event", "stop"),
    ("after", "reads", 3),
    ("around", "whole_batch", 1),
    ("replace", "event", "stop"),
    ("FocalLoss", "gamma", "2"),
    ("FocalLoss", "gamma", float("inf")),
    ("FocalLoss", "weight", [1.0]),
    ("BinaryFocalLoss", "alpha", True),
    ("BinaryFocalLoss", "alpha", 1.5),
    ("dense_cross_entropy", "label_smoothing", 1.5),
    ("dense_cross_entropy", "weight", [1.0, 1.0, 1.0]),
    ("dense_cross_entropy", "reduction", None),
    ("kl_divergence", "reduction", ["mean"]),
    ("resolve_loss", "accepts", 3),
]


@pytest.mark.kind("20")
@pytest.mark.parametrize(
    ("name", "key", "value"), WRONG, ids=[f"{name}-{key}-{n}" for n, (name, key, _) in enumerate(WRONG)]
)
def test_a_value_of_the_wrong_type_is_refused(name: str, key: str, value: Any) -> None:
    call, right = CALLS[name]
    with pytest.raises(cp.CounterpointError):
        call(**{**right, key: value})


@pytest.mark.kind("20")
def test_integers_of_other_libraries_become_pythons() -> None:
    spec = cp.BatchSpec(np.int64(3), (torch.tensor(1), np.uint8(2)), np.int32(4))  # type: ignore[arg-type]
    assert spec == cp.BatchSpec(3, (1, 2), 4)
    assert {type(number) for number in (spec.size, *spec.shape, spec.num_classes)} == {int}
    one = cp.Rng(np.int64(17), "mixup", np.int32(9), np.int8(1))  # type: ignore[arg-type]
    assert one.permutation(9).equal(cp.Rng(17, "mixup", 9, 1).permutation(9))
    engine = cp.Engine(PLAN, model=nn.Linear(2, 2), rank=np.int64(2))  # type: ignore[arg-type]
    assert type(engine.rank) is int
    assert engine.rank == 2


@pytest.mark.kind("10")
@pytest.mark.parametrize("value", ["stop", None, 3, ["step"]])
def test_an_event_that_there_is_not_names_those_that_there_are(value: object) -> None:
    with pytest.raises(cp.ArgumentError, match=r"events are setup, .*evaluation"):
        cp.Event(value)


@pytest.mark.kind("10")
def test_a_law_in_small_letters_gets_the_law() -> None:
    with pytest.raises(cp.DeclarationError, match=r"law='convex'[\s\S]*CONVEX"):
        cp.transform(inputs=cp.CONTINUOUS, law="convex")(edit)  # type: ignore[arg-type]


@pytest.mark.kind("30")
def test_durations_are_rounded_to_the_nearest_batch() -> None:
    def batches(text: str, steps: int) -> int | None:
        return cp.Duration.parse(text).batches(steps_per_epoch=steps, total=steps)

    assert [batches("0.5ep", 11), batches("0.29ep", 10), batches("0.25ep", 10)] == [6, 3, 2]
    assert [batches("0.78dur", 10), batches("0.72dur", 10), batches("1dur", 7)] == [8, 7, 7]
    assert [batches("2.99ep", 100), batches("3ba", 100), batches("0ep", 100)] == [299, 3, 0]


@pytest.mark.kind("10")
@pytest.mark.kind("20")
@pytest.mark.parametrize(
    ("name", "key"),
    [(name, key) for name in ("Edit", "Kind", "Slot", "Claim", "Task", "OutputKind") for key in CALLS[name][1]],
)
def test_a_part_of_a_declaration_of_another_type_is_named(name: str, key: str) -> None:
    call, right = CALLS[name]
    for wrong in (3 if key not in ("fills", "amount") else "3", ["a"], {"a"}, frozenset({"a"}), 1j):
        with pytest.raises(cp.ArgumentError, match=rf"^{key} is "):
            call(**{**right, key: wrong})


def made(keywords: dict[str, Any], **body: Any) -> type[cp.Algorithm[Any]]:
    """Return a class of a method with these class keywords and these names in its body."""
    declared = cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX)(edit)
    body = {"__module__": __name__, "apply": declared, **body}
    return types.new_class("Made", (cp.Algorithm,), keywords, lambda space: space.update(body))


@pytest.mark.kind("20")
def test_what_the_body_of_a_class_says_counts() -> None:
    assert made({}, shared=True).shared
    assert made({"shared": True}).shared
    assert not made({}).shared
    assert not made({}, shared=False).shared
    assert (made({}).name, made({}, name="other").name, made({"name": "word"}).name) == ("made", "other", "word")
    parent = made({}, shared=True)
    assert types.new_class("Child", (parent,)).shared
    assert not types.new_class("Child", (parent,), {"shared": False}).shared


@pytest.mark.kind("20")
@pytest.mark.parametrize(
    ("keywords", "body"),
    [
        ({"shared": True}, {"shared": False}),
        ({"name": "a"}, {"name": "b"}),
        ({}, {"shared": 1}),
        ({"shared": "yes"}, {}),
        ({"name": 3}, {}),
        ({}, {"name": ["a"]}),
        ({}, {"name": ""}),
    ],
)
def test_a_class_that_states_it_wrongly_is_refused(keywords: dict[str, Any], body: dict[str, Any]) -> None:
    with pytest.raises(cp.DeclarationError):
        made(keywords, **body)
