"""Compiled plans: the same numbers as eager ones, no recompiling for draws, and a way on where nothing compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import counterpoint as cp
from counterpoint.algorithms import CutMix, CutOut, LabelSmoothing, MixUp, Normalize, OneOf, TrivialAugment
from counterpoint.core.run.batch import compilation as compiled
from counterpoint.core.run.batch import runner as run
from counterpoint.core.run.batch.compilation import Compiled
from counterpoint.core.run.batch.device_transfer import packed
from tests.core.methods import Blend, Hole, Recolor, Scale

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

FACTS: dict[str, Any] = {
    "loss": torch.nn.CrossEntropyLoss(),
    "task": "multiclass",
    "num_classes": 5,
    "seed": 3,
    "contract": "off",
}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def compare(algorithms: list[Any], steps: int, *, backend: str = "eager", size: int = 6, **facts: Any) -> Compiled:
    """Run a plan compiled and eager on the same batches, and return what compiled it."""
    plan = cp.compose(algorithms, **FACTS | facts)
    fast = replace(plan, backend=backend)
    numbers = torch.Generator().manual_seed(1)
    for step in range(steps):
        inputs = torch.randint(0, 256, (size, 3, 8, 8), dtype=torch.uint8, generator=numbers)
        given_inputs = inputs if plan.facts.inputs == cp.BYTES else inputs / 255
        targets = torch.randint(0, 5, (size,), generator=numbers)
        found, wanted = fast(given_inputs, targets, step=step), plan(given_inputs, targets, step=step)
        for one, other in zip(found, wanted, strict=True):
            # Where a mixed value is small beside its parts, what they were rounded by is not.
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max()))
    assert fast.runner.compiled is not None
    return fast.runner.compiled


NORMALIZE = Normalize(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4])


@st.composite
def plans(draw: st.DrawFn) -> list[Any]:
    chance = st.sampled_from([1.0, 0.5])
    pool = [
        CutOut(p=draw(chance), per_sample=draw(st.booleans()), num_holes=draw(st.integers(1, 2))),
        LabelSmoothing(p=draw(chance)),
        draw(
            st.sampled_from(
                [
                    MixUp(p=0.5),
                    CutMix(per_sample=True, every=2),
                    OneOf(algorithms=[MixUp(), CutMix(p=0.5)], p=0.8),
                    Blend(start="2ba"),
                ]
            )
        ),
        Scale(p=draw(chance)),
        Recolor(p=draw(chance)),
        Hole(value=0.0),
    ]
    return draw(st.lists(st.sampled_from(pool), unique_by=id, max_size=5))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(plans(), st.integers(1, 5))
def test_random_plans_give_the_same_compiled(algorithms: list[Any], size: int) -> None:
    compare(algorithms, 8, size=size)


@pytest.mark.slow
def test_nothing_compiles_again_because_a_draw_changed() -> None:
    chain = [NORMALIZE, CutOut(), MixUp(), LabelSmoothing()]
    compare(chain, 200, inputs="bytes")
    assert graphs() == 1


@pytest.mark.slow
def test_the_real_compiler_gives_the_same() -> None:
    chain = [NORMALIZE, CutOut(p=0.5), MixUp(), LabelSmoothing()]
    compare(chain, 12, backend="inductor", inputs="bytes")
    assert graphs() == 2


@pytest.mark.slow
def test_draws_in_one_piece_of_memory_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those that were moved to a device are."""
    monkeypatch.setattr(run, "move_draws", packed)
    compare([NORMALIZE, CutOut(), MixUp(), LabelSmoothing()], 12, backend="inductor", inputs="bytes")
    assert graphs() == 1


@pytest.mark.slow
def test_beyond_the_cap_one_function_serves_every_set_of_acting_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "ACTIVE_SETS", 2)
    chain = [CutOut(p=0.5), OneOf(algorithms=[MixUp(), CutMix(p=0.5)]), LabelSmoothing(p=0.5), Scale(p=0.5)]
    compare(chain, 60)
    assert graphs() == 3


@pytest.mark.slow
def test_batches_of_ever_other_sizes_run_step_by_step_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "VARIANTS", 2)
    plan = replace(cp.compose([MixUp()], **FACTS), backend="eager")
    for step, size in enumerate([3, 4, 5, 6, 3, 4, 5, 6]):
        plan(torch.rand(size, 3, 8, 8), torch.arange(size) % 5, step=step)
    assert graphs() == 2


@pytest.mark.slow
def test_the_batch_in_hand_stays_as_it_is_while_others_are_edited() -> None:
    plan = replace(cp.compose([MixUp()], **FACTS), backend="eager")
    large = torch.rand(8, 3, 128, 128)
    held, copies = [], []
    for step in range(6):
        inputs, _ = plan(large, torch.arange(8) % 5, step=step)
        held.append(inputs)
        copies.append(inputs.clone())
    assert all(torch.equal(one, other) for one, other in zip(held, copies, strict=True))


@pytest.mark.slow
def test_memory_is_used_again_once_nobody_holds_it() -> None:
    plan = replace(cp.compose([MixUp()], **FACTS), backend="eager")
    places = []
    for step in range(8):
        inputs, _ = plan(torch.rand(8, 3, 128, 128), torch.arange(8) % 5, step=step)
        places.append(inputs.data_ptr())
    assert len(set(places[3:])) <= 2


@pytest.mark.slow
def test_draws_whose_shapes_change_stay_outside() -> None:
    compare([TrivialAugment(), NORMALIZE, MixUp()], 6, inputs="bytes")
    assert graphs() == 2  # what comes before, and what comes after


class Branching(cp.Algorithm[None], name="branching"):
    """A method that looks at values, which no compiler can take whole."""

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs * 2) if batch.inputs.sum() > 0 else batch


class Looking(Branching, name="looking"):
    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE, eager=True)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs * 2) if batch.inputs.sum() > 0 else batch


@pytest.mark.slow
def test_what_cannot_be_compiled_is_said_once_and_runs_step_by_step() -> None:
    with pytest.warns(RuntimeWarning, match="runs step by step") as caught:
        compare([Branching(), MixUp()], 6)
    assert len(caught) == 1
    assert "eager=True" in str(caught[0].message)


@pytest.mark.parametrize("error", [RuntimeError("no compiler\nhere"), OSError(), ValueError("  odd  ")], ids=repr)
def test_any_error_of_the_compiler_is_said_once(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(*_: Any, **__: Any) -> None:
        tries.append(1)
        raise error

    monkeypatch.setattr(compiled, "_compiled", fail)
    wanted = (str(error).split("\n")[0].strip() or "OSError") + r" \(a transform"
    with pytest.warns(RuntimeWarning, match=f"runs step by step: {wanted}") as caught:
        compare([MixUp(), LabelSmoothing()], 5)
    assert (len(tries), len(caught)) == (1, 1)


class Breaking(cp.Algorithm[None], name="breaking"):
    """Doubles the inputs until it breaks."""

    broken: ClassVar[bool] = False

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        if Breaking.broken:
            raise ValueError("broken here")
        return batch.with_inputs(batch.inputs * 2)


@pytest.mark.slow
def test_an_error_of_a_method_is_its_own_and_the_plan_stays_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(cp.compose([Breaking()], **FACTS), backend="eager")
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    for step in range(3):
        plan(x, y, step=step)
    monkeypatch.setattr(Breaking, "broken", True)
    with pytest.raises(cp.MethodError, match=r"^breaking.* failed at step 3: ValueError: broken here"):
        plan(x, y, step=3)
    monkeypatch.setattr(Breaking, "broken", False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert torch.equal(plan(x, y, step=4)[0], x * 2)
    assert graphs() == 1


@pytest.mark.slow
def test_what_is_declared_eager_is_left_out() -> None:
    compare([Looking(), MixUp()], 6)
    assert graphs() == 2


@pytest.mark.slow
def test_the_users_tensors_and_modes_stay_as_they_were() -> None:
    plan = replace(cp.compose([MixUp(), LabelSmoothing()], **FACTS), backend="eager")
    inputs, targets = torch.rand(4, 3, 8, 8), torch.arange(4)
    before = inputs.clone()
    for step in range(4):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            edited, dense = plan(inputs, targets, step=step)
        assert edited.dtype == dense.dtype == torch.float32
        assert torch.is_grad_enabled()
    assert torch.equal(inputs, before)


NO_COMPILER = """
import warnings, torch, counterpoint as cp
plan = cp.compose(["mixup"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=3, compile=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for step in range(8):
        x, y = plan(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]), step=step)
print(sum("runs step by step" in str(warning.message) for warning in caught), tuple(y.shape))
"""


@pytest.mark.long
def test_a_machine_without_a_compiler_runs_eager_and_says_so_once(tmp_path: Any) -> None:
    environment = os.environ | {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", NO_COMPILER], env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n")[0] == "1 (4, 3)", done.stderr


NEXT_START = """
import torch, counterpoint as cp
chain = [{"name": "normalize", "mean": [0.5], "std": [0.5]}, "cutout", "mixup", "label_smoothing"]
facts = {"loss": torch.nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": 3, "inputs": "bytes"}
plan = cp.compose(chain, **facts, contract="off", compile=True)
for step in range(4):
    plan(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]), step=step)
counters = torch._dynamo.utils.counters["inductor"]
print(counters["fxgraph_cache_miss"], counters["fxgraph_cache_hit"], counters["fxgraph_cache_bypass"])
"""


@pytest.mark.long
def test_the_cache_serves_the_next_start(tmp_path: Any) -> None:
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    starts = [
        subprocess.run([sys.executable, "-c", NEXT_START], env=environment, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [start.stdout.strip() for start in starts] == ["1 0 0", "0 1 0"], starts[-1].stderr


@pytest.mark.kind("30")
def test_a_compiled_batch_keeps_its_original_targets() -> None:
    plan = replace(cp.compose([MixUp(alpha=1.0)], **FACTS), backend="eager")
    engine = cp.Engine(plan, model=torch.nn.Flatten())
    for step in range(4):
        given_targets = torch.tensor([0, 1, 2, 3]).roll(step)
        with engine.batch(torch.rand(4, 3, 8, 8), given_targets) as batch:
            assert torch.equal(engine.original, given_targets)
            assert batch.targets.shape == (4, 5)
