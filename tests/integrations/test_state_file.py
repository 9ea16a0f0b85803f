"""States in files and checkpoints without a loop: taken back by the same plan, by another if allowed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.integrations.average import TRAINED, average_from
from counterpoint.integrations.state_file import STATE_FILE, load_state, save_state
from counterpoint.integrations.transformers.spans import Spans

pytestmark = pytest.mark.kind("30")


AVERAGE = 1.25
"""Of weights 0, 1, 2 at the ends of three steps, with half-life 1: 0, then 0.5, then 1.25."""


class Tied(nn.Module):
    """Two names of one weight, and one weight of another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.last.weight = self.first.weight
        nn.init.zeros_(self.first.weight)
        self.small = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))


def engine_of(half_life: float = 1.0, steps: int = 0) -> cp.Engine:
    """An engine whose weights are all n after n steps; the average, of half-life 1, is worked out by hand."""
    ema = {"name": "ema", "half_life": half_life, "warmup": False}
    plan = cp.compose([ema], loss=nn.MSELoss(), task="regression", inputs="features")
    model = Tied()
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(steps):
        with engine.batch(torch.zeros(2, 2), torch.zeros(2, 2)):
            engine.step(lambda: torch.tensor(0.0))
            with torch.no_grad():
                for weight in model.parameters():
                    weight.fill_(step + 1)
    return engine


def test_a_file_gives_back_the_state(tmp_path: Path) -> None:
    engine = engine_of(steps=3)
    save_state(engine, tmp_path)
    again = engine_of()
    load_state(again, tmp_path)
    assert again.batches == 3
    wanted, found = engine.state_dict(), again.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_another_plan_takes_the_state_only_where_that_is_said(tmp_path: Path) -> None:
    saved, other = engine_of(steps=2), engine_of(half_life=2.0)
    save_state(saved, tmp_path)
    pattern = f"{STATE_FILE} is of the plan {saved.plan.fingerprint}, and this one is {other.plan.fingerprint}"
    with pytest.raises(cp.CheckpointError, match=pattern):
        load_state(other, tmp_path)
    assert other.batches == 0
    load_state(other, tmp_path, allow_changes=True)
    assert other.batches == 2


def test_another_version_is_refused_though_the_plan_is_the_same(tmp_path: Path) -> None:
    saved = engine_of(steps=2)
    state = {name: value for name, value in saved.state_dict().items() if name != "origin"}
    save_file(state, tmp_path / STATE_FILE, metadata={"fingerprint": saved.plan.fingerprint})
    again = engine_of()
    with pytest.raises(cp.CheckpointError, match="does not say which plan and which versions"):
        load_state(again, tmp_path)
    load_state(again, tmp_path, allow_changes=True)
    assert again.batches == 2


def checkpoint_in(form: str, engine: cp.Engine, folder: Path) -> Any:
    """A checkpoint as a loop would write it, of an engine's state and its model's weights."""
    state, weights = engine.state_dict(), engine.model.state_dict()
    if form == "folder":
        save_state(engine, folder)
        save_file({"small": weights["small"]}, folder / "model-00001-of-00002.safetensors")
        save_file({"first.weight": weights["first.weight"]}, folder / "model-00002-of-00002.safetensors")
        return folder
    callbacks = {"Other": {"held": 1}, "Text": "plain", "Counterpoint": state}
    held = {"callbacks": callbacks, "state_dict": weights}
    if form == "average":
        other = {name: value.clone().fill_(9) for name, value in weights.items()}
        held |= {"state_dict": other, TRAINED: weights}
    if form == "file":
        torch.save(held, folder / "last.ckpt")
        return folder / "last.ckpt"
    return held


@pytest.mark.parametrize("form", ["mapping", "file", "folder", "average"])
def test_the_average_is_that_of_the_steps_in_the_dtypes_of_the_weights(form: str, tmp_path: Path) -> None:
    engine = engine_of(steps=3)
    average = average_from(checkpoint_in(form, engine, tmp_path))
    names = {"first.weight", "small"} | (set() if form == "folder" else {"last.weight"})
    assert average.keys() == names
    assert {name: value.dtype for name, value in average.items() if name != "small"} == dict.fromkeys(
        names - {"small"}, torch.float32
    )
    assert average["small"].dtype == torch.bfloat16
    for name, value in average.items():
        assert torch.equal(value, torch.full_like(value, AVERAGE)), name


def test_weights_outside_the_average_are_those_in_training() -> None:
    engine = engine_of(steps=3)
    held = checkpoint_in("mapping", engine, Path())
    held["state_dict"] = {**held["state_dict"], "kept": torch.full((2,), 7.0)}
    average = average_from(held)
    assert average["kept"].tolist() == [7.0, 7.0]
    assert average["last.weight"].unique().tolist() == [AVERAGE]


def test_callbacks_without_the_state_of_an_engine_are_answered() -> None:
    with pytest.raises(cp.CheckpointError, match="is of a run without CounterpointCallback"):
        average_from({"callbacks": {"Other": {"held": 1}}, "state_dict": {"a": torch.zeros(1)}})


class TestSpans:
    """Spans that a loop begins and ends in calls of its own."""

    def test_the_innermost_ends_first_and_only_as_many_as_are_asked_for(self) -> None:
        said: list[str] = []
        spans = Spans()
        with spans.unwound():
            assert [spans.begin(_span(name, said)) for name in "abc"] == ["A", "B", "C"]
            spans.end()
            assert said == ["c"]
            spans.begin(_span("d", said))
            spans.end(2)
            assert said == ["c", "d", "b"]
        assert said == ["c", "d", "b", "a"]
        with spans.unwound():
            pass
        assert said == ["c", "d", "b", "a"]

    def test_what_is_open_is_told_of_the_error_innermost_first(self) -> None:
        said: list[str] = []
        spans = Spans()

        def fail() -> None:
            with spans.unwound():
                spans.begin(_span("a", said))
                spans.begin(_span("b", said))
                raise KeyError("gone")

        with pytest.raises(KeyError, match="gone"):
            fail()
        assert said == ["b: KeyError", "a: KeyError"]


@contextmanager
def _span(name: str, said: list[str]) -> Iterator[str]:
    try:
        yield name.upper()
    except KeyError:
        said.append(f"{name}: KeyError")
        raise
    else:
        said.append(name)


def test_an_engine_alone_gives_the_average_in_float32() -> None:
    average = average_from(engine_of(steps=3).state_dict())
    assert all(isinstance(value, Tensor) and value.unique().tolist() == [AVERAGE] for value in average.values())
