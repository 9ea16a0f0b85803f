"""Any object given to a plan's functions gets a result, or an error of Counterpoint's that says what is wrong."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import counterpoint as cp
from tests.objects import anything, batches, containers, plain, tensors

pytestmark = [pytest.mark.kind("10"), pytest.mark.kind("20")]

PLANS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "empty": ([], {"task": "multiclass", "num_classes": 3}),
    "no classes": ([], {"task": "multiclass"}),
    "mixed": (["mixup", "cutout", "label_smoothing"], {"task": "multiclass", "num_classes": 3}),
    "pasted": (["cutmix"], {"task": "segmentation", "num_classes": 3}),
    "bytes": (
        [{"name": "normalize", "mean": [0.5], "std": [0.5]}, "trivial_augment", "mixup"],
        {"task": "multiclass", "num_classes": 3, "inputs": "bytes"},
    ),
    "labels": (["cutmix", "label_smoothing"], {"task": "multilabel", "num_classes": 3, "loss": nn.BCEWithLogitsLoss()}),
    "features": (["mixup"], {"task": "regression", "inputs": "features", "loss": nn.MSELoss()}),
    "tokens": (["label_smoothing"], {"task": "segmentation", "num_classes": 3, "inputs": "tokens"}),
    "nll": ([], {"task": "multiclass", "num_classes": 3, "loss": nn.NLLLoss()}),
}
names = st.sampled_from([*PLANS])
fuzzed = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@cache
def plan(name: str) -> cp.Plan:
    algorithms, facts = PLANS[name]
    return cp.compose(algorithms, **{"loss": nn.CrossEntropyLoss(), **facts})


def answered(call: Any) -> Any:
    """Return what a call returns, or ``None`` where it raises an error of Counterpoint's with a message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except cp.CounterpointError as error:
        raised = error
    assert 0 < len(str(raised)) < 600
    assert not isinstance(raised, cp.ContractError)  # no method is to blame
    return None


@pytest.mark.slow
@fuzzed
@given(names, tensors(batches) | anything, tensors(batches) | anything, st.booleans())
def test_batches(name: str, inputs: Any, targets: Any, donate: bool) -> None:
    found = answered(lambda: plan(name)(inputs, targets, step=0, donate=donate))
    if found is not None:
        assert isinstance(found[1], Tensor)
        assert isinstance(found[0], Tensor) or all(isinstance(tensor, Tensor) for tensor in found[0])
    answered(lambda: plan(name).prepare(inputs, targets))


@pytest.mark.slow
@fuzzed
@given(plain | tensors(), plain | tensors(), plain | tensors(), plain)
def test_plain_arguments(step: Any, rank: Any, donate: Any, repeat: Any) -> None:
    batch = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    answered(lambda: plan("mixed")(*batch, step=step, rank=rank, donate=donate, repeat=repeat))
    answered(lambda: plan("mixed")(*batch, step=step))
    answered(lambda: plan("mixed")(*batch, step=0, rank=rank))
    answered(lambda: plan("mixed").draws(step, cp.BatchSpec(4, (1, 4, 4), 3), rank=rank))
    answered(lambda: plan("mixed").explain(pairs=donate))


@pytest.mark.slow
@fuzzed
@given(names, anything, plain | st.tuples() | st.lists(plain).map(tuple), plain)
def test_facts_of_a_batch(name: str, size: Any, shape: Any, classes: Any) -> None:
    answered(lambda: plan(name).draws(0, size))
    answered(lambda: plan(name).draws(0, cp.BatchSpec(size, shape, classes)))
    answered(lambda: plan(name).draws(0, cp.BatchSpec(4, shape, classes)))


@pytest.mark.slow
@fuzzed
@given(names, tensors(batches) | anything, tensors(batches) | anything)
def test_losses(name: str, outputs: Any, targets: Any) -> None:
    answered(lambda: plan(name).loss(outputs, targets))


WRONG = [True, False, np.bool_(True), 9.0, np.float64(1), 1.5, -1, float("nan"), "0", None, 1j, [0], torch.tensor(1.0)]


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_step_or_rank_is_a_whole_number(value: Any) -> None:
    batch, spec = (torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])), cp.BatchSpec(4, (1, 4, 4), 3)
    calls = [lambda: plan("mixed")(*batch, step=value), lambda: plan("mixed").draws(value, spec)]
    if value is not None:
        calls += [
            lambda: plan("mixed")(*batch, step=0, rank=value),
            lambda: plan("mixed").draws(0, spec, rank=value),
        ]
    for call in calls:
        with pytest.raises(cp.ArgumentError, match=r"(step|rank) is .*whole number of at least 0"):
            call()


@pytest.mark.parametrize("number", [3, np.int64(3), np.uint8(3), torch.tensor(3), torch.tensor([3], dtype=torch.uint8)])
def test_what_counts_as_a_whole_number_gives_the_same_draws(number: Any) -> None:
    batch = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    wanted = plan("mixed")(*batch, step=3, rank=3)
    assert all(map(torch.equal, plan("mixed")(*batch, step=number, rank=number), wanted))


@pytest.mark.parametrize("value", [0, 1, None, "yes", 1.0, torch.tensor(True)], ids=repr)
def test_a_flag_is_a_bool(value: Any) -> None:
    batch = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    for name in ("donate", "repeat"):
        with pytest.raises(cp.ArgumentError, match=f"{name} is .*True or False"):
            plan("mixed")(*batch, step=0, **{name: value})


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((torch.tensor([0, 1]), torch.tensor([1, 0])), "a tuple of 2 tensors: give one of them"),
        ([0, 1, 2, 0], r"of type list: give torch\.tensor"),
        ({"label": torch.tensor([0])}, "a dict with the keys 'label': give the tensor"),
        (None, "not None"),
        (np.array([0, 1, 2, 0]), r"a NumPy array of shape \(4,\): give torch\.as_tensor"),
        (torch.tensor([0, 1, 2, 0]).to_sparse(), r"layout torch\.sparse_coo: give targets\.to_dense\(\)"),
    ],
)
def test_targets_that_are_no_tensor_are_described(targets: Any, message: str) -> None:
    for call in (
        lambda: plan("mixed")(torch.rand(4, 1, 4, 4), targets, step=0),
        lambda: plan("mixed").prepare(torch.rand(4, 1, 4, 4), targets),
    ):
        with pytest.raises(cp.DataError, match=f"targets must be .*{message}"):
            call()


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(containers)
def test_fields_in_containers(inputs: Any) -> None:
    answered(lambda: plan("mixed")(inputs, torch.tensor([0, 1, 2, 0]), step=0))


@pytest.mark.parametrize("donate", [False, True])
def test_inputs_of_another_layout_on_another_device(donate: bool) -> None:
    plan = cp.compose(["mixup"], task="multiclass", num_classes=3)
    inputs = (torch.zeros(2, 1, 4, 4).to_sparse(), torch.zeros(2, 1, 4, 4, device="meta"))
    with pytest.raises(cp.DataError, match="cpu, meta"):
        plan(inputs, torch.tensor([0, 1]), 0, donate=donate)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "cutout"])
def test_a_donated_tensor_that_cannot_be_written_to_is_left_alone(name: str) -> None:
    composed, y = cp.compose([name], task="multiclass", num_classes=3, seed=1), torch.tensor([0, 1, 2, 0])
    one = torch.rand(1, 2, 6, 6)
    with torch.inference_mode():
        inference = torch.rand(4, 2, 6, 6)
    memory = torch.rand(400)
    for x in (
        one.expand(4, 2, 6, 6),
        torch.rand(4, 2, 1, 6).expand(4, 2, 6, 6),
        inference,
        memory.as_strided((4, 2, 6, 6), (30, 15, 2, 1)),
    ):
        before = x.clone()
        for step in range(4):
            wanted = composed(before.clone(), y, step=step, repeat=True)
            found = composed(x, y, step=step, donate=True, repeat=True)
            assert all(map(torch.equal, found, wanted))
            assert torch.equal(x, before)


def test_donated_memory_is_used_where_it_can_be() -> None:
    composed, y = cp.compose(["cutout"], task="multiclass", num_classes=3), torch.tensor([0, 1, 2, 0])
    for x in (torch.rand(4, 2, 6, 6), torch.rand(4, 6, 6, 2).movedim(-1, 1), torch.rand(4, 2, 6, 12)[..., ::2]):
        assert composed(x, y, step=0, donate=True, repeat=True)[0].data_ptr() == x.data_ptr()
    with torch.inference_mode():
        x = torch.rand(4, 2, 6, 6)
        assert composed(x, y, step=1, donate=True)[0].data_ptr() == x.data_ptr()
