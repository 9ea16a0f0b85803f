"""Counting batches and samples in Hugging Face's Trainer, against what a loop by hand counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import counterpoint as cp
from counterpoint.core.run.batch.draws import describe_draws
from counterpoint.integrations.transformers.batches import batches_in, counted, describe_batches, weighed_loss
from tests.integrations.lit import compose

pytestmark = pytest.mark.kind("30")


@given(st.integers(0, 60), st.integers(1, 13), st.integers(1, 5))
def test_steps_are_counted_in_batches(steps: int, epoch: int, parts: int) -> None:
    taken, left = 0, epoch
    for _ in range(steps):
        group = min(parts, left)
        taken, left = taken + group, left - group
        left = left or epoch
    assert batches_in(steps, epoch, parts) == taken
    assert batches_in(steps, None, parts) == steps * parts


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_each_sample_counts_once_in_evaluation(samples: int, size: int, ranks: int) -> None:
    """Of batches that are dealt to the ranks in turn and filled up from the start, as Accelerate does."""
    whole = size * ranks
    full, rest = divmod(samples, whole)
    rounds = [(whole, 0)] * full + ([(rest, rest)] if rest else [])
    total = 0
    for number, (real, remainder) in enumerate(rounds):
        last = number == len(rounds) - 1
        state = SimpleNamespace(end_of_dataloader=last, remainder=remainder if last else -1)
        own = [counted(size, state, rank) for rank in range(ranks)]
        assert sum(own) == real
        assert own == [max(0, min(size, real - rank * size)) for rank in range(ranks)]
        total += sum(own)
    assert total == samples


def test_samples_that_are_there_twice_are_left_out_of_the_loss() -> None:
    weights = torch.linspace(0.5, 2, 4)
    plan = compose(loss=nn.CrossEntropyLoss(weights))
    logits, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0, 1])
    for real in range(1, 7):
        total, weight = weighed_loss(plan, logits, targets, real)
        wanted = nn.functional.cross_entropy(logits[:real], targets[:real], weights)
        assert weight == pytest.approx(weights[targets[:real]].sum().item())
        assert (total / weight).item() == pytest.approx(wanted.item(), abs=1e-6)
    assert weighed_loss(plan, logits, targets, 0).tolist() == [0, 0]
    ignored = torch.full((6,), -100)
    assert weighed_loss(plan, logits, ignored, 6).tolist() == [0, 0]


def test_the_draws_of_each_open_batch_are_told() -> None:
    plan = cp.compose(["mixup"], loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=3, inputs="features")
    model = nn.Linear(2, 3)
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with engine.batch(torch.rand(4, 2), torch.arange(4) % 3), engine.batch(torch.rand(4, 2), torch.arange(4) % 3):
        told = describe_batches(engine, 2).split(" | ")
    spec = cp.BatchSpec(4, (2,), 3)
    assert told == [describe_draws(plan.draws(step, spec)) for step in range(2)]
    assert told[0] != told[1]
