"""What another number of processes, or microbatches, changes: worked out by hand for layers and methods."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from torch import nn

import counterpoint as cp
from counterpoint.trainer.setup.global_batch import Split, microbatch_notes, split_changes

pytestmark = pytest.mark.kind("30")


class Whole(cp.Algorithm[None], name="whole"):
    """Needs the whole batch in one span, and changes nothing."""

    @cp.around(cp.Event.FORWARD, writes="outputs", whole_batch=True)
    def span(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        """Do nothing."""
        yield


class Alike(cp.Algorithm[int], name="alike"):
    """Draws one number, the same for every process, and adds it to each sample."""

    shared = True

    def draw(self, rng: cp.Rng, batch: cp.BatchSpec) -> int:
        """Draw an offset."""
        return int(rng.integers(0, 3))

    @cp.transform(inputs=cp.NORMALIZED, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: int) -> cp.Batch:
        """Add the offset."""
        return batch


class AlikeOnSamples(cp.Algorithm[list[int]], name="alike_on_samples"):
    """Draws a number for each sample, by the place in the batch of its process."""

    shared = True

    def draw(self, rng: cp.Rng, batch: cp.BatchSpec) -> list[int]:
        """Draw an offset for each sample."""
        return [int(rng.integers(0, 3)) for _ in range(batch.size)]

    @cp.transform(inputs=cp.NORMALIZED, law=cp.Law.RECOLOR)
    def apply(self, batch: cp.Batch, draws: list[int]) -> cp.Batch:
        """Add the offsets."""
        return batch


def _plan(*methods: object, **facts: Any) -> cp.Plan:
    stated = {"task": "multiclass", "num_classes": 5, "inputs": "normalized", "batch_size": 8, **facts}
    return cp.compose(list(methods), loss=nn.CrossEntropyLoss(), **stated)


NORM, DROP = "batch norm ({}) would compute on other batches", "dropout ({}) would compute on other batches"


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        ([nn.Linear(2, 2), nn.LayerNorm(2), nn.GroupNorm(1, 2)], []),
        ([nn.BatchNorm1d(2)], [NORM.format("1 layer")]),
        ([nn.Dropout(0.1), nn.Sequential(nn.Dropout2d(0.2))], [DROP.format("2 layers")]),
        ([nn.Dropout(0.0), nn.Dropout(0.5)], [DROP.format("1 layer")]),
        ([nn.Dropout(0.0)], []),
        (
            [nn.SyncBatchNorm(2), nn.BatchNorm2d(2), nn.AlphaDropout(0.5)],
            [NORM.format("2 layers"), DROP.format("1 layer")],
        ),
    ],
)
def test_layers_that_look_across_a_batch_are_counted(layers: list[nn.Module], wanted: list[str]) -> None:
    model = nn.Sequential(*layers)
    for before, now in ((Split(1, 8), Split(2, 4)), (Split(2, 4), Split(1, 8))):
        assert split_changes(before, now, _plan(), model) == wanted
    assert split_changes(Split(2, 8), Split(2, 4), _plan(), model) == []
    assert microbatch_notes(_plan(), model) == []
    told = microbatch_notes(_plan(microbatches=4), model)
    assert len(told) == len(wanted)
    for note, layer in zip(told, wanted, strict=True):
        assert note.startswith(f"accumulate: {layer.split(' would')[0]} of the model sees each of 4 microbatches ")


@pytest.mark.parametrize(("before", "now"), [(Split(1, 8), Split(2, 8)), (Split(4, 8), Split(2, 8))])
def test_another_global_batch_is_told_both_ways(before: Split, now: Split) -> None:
    assert split_changes(before, now, _plan(), nn.Linear(2, 2)) == [
        f"the global batch was {before.processes} x 8 = {8 * before.processes} examples, "
        f"and is {now.processes} x 8 = {8 * now.processes}"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "named"),
    [
        (["cutout"], "cutout"),  # draws for each sample
        (["mixup"], "mixup"),
        (["mixup", "cutout"], "cutout, mixup"),
        ([Whole()], "whole"),
        (["label_smoothing"], None),
        (["ema", "gradient_clipping", "label_smoothing"], None),
        ([{"name": "label_smoothing", "p": 0.5}], "label_smoothing"),  # each process has a coin of its own
        ([{"name": "ema", "p": 0.5}], None),  # what processes hold alike has one coin
        ([Alike()], None),
        ([AlikeOnSamples()], "alike_on_samples"),
        ([Alike(), {"name": "label_smoothing", "p": 0.5}], "label_smoothing"),
    ],
)
def test_methods_that_depend_on_the_split_are_named(methods: list[object], named: str | None) -> None:
    wanted = [] if named is None else [f"{named} would get other draws, or act among other samples"]
    assert split_changes(Split(1, 8), Split(2, 4), _plan(*methods), nn.Linear(2, 2)) == wanted
