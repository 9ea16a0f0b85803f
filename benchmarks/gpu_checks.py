"""What must hold on a GPU: nothing waits for it, edits can be captured, nothing recompiles, the CPU gives the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import counterpoint as cp
from benchmarks.batches import COMPILED, EAGER, Goal, bytes_and_labels
from benchmarks.check import CLASSES, MEAN, STD
from benchmarks.gpu_chain import Result, Setup, chain_methods, ours
from benchmarks.gpu_timing import wait
from counterpoint.algorithms import (
    CutMix,
    CutOut,
    LabelSmoothing,
    ManifoldMixup,
    MixUp,
    Normalize,
    OneOf,
    SelectiveBackprop,
    TrivialAugment,
)
from counterpoint.core.declare.kinds import INPUT_KINDS
from counterpoint.core.run.batch.calls import Call, bind, map_draws
from counterpoint.core.run.batch.runner import run_calls

__all__ = ["METHODS", "count_recompiles", "replay_graph", "run_unwaited", "same_as_the_host"]

COUNT, SIDE, STEPS = 32, 32, 20
METHODS: dict[str, tuple[list[Any], str]] = {
    "mixup": ([MixUp(alpha=1.0)], "unit"),
    "cutmix": ([CutMix()], "unit"),
    "cutmix, a box a sample": ([CutMix(per_sample=True)], "bytes"),
    "cutout": ([CutOut(num_holes=2)], "bytes"),
    "label_smoothing": ([LabelSmoothing()], "unit"),
    "normalize": ([Normalize(mean=MEAN, std=STD)], "bytes"),
    "one_of": ([OneOf(algorithms=[MixUp(), CutMix()])], "unit"),
    "trivial_augment": ([TrivialAugment()], "bytes"),
    "manifold_mixup": ([ManifoldMixup(module="1")], "unit"),
    "selective_backprop": ([SelectiveBackprop()], "unit"),
    "the chain": (chain_methods(), "bytes"),
}
"""Every method that edits batches, and the kind of inputs that it gets."""


def _engine(methods: list[Any], kind: str, device: torch.device) -> cp.Engine:
    facts = {"loss": nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": CLASSES, "contract": "off"}
    plan = cp.compose(methods, inputs=kind, model_inputs=INPUT_KINDS, seed=17, **facts)
    torch.manual_seed(0)
    return cp.Engine(plan, model=nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES)).to(device))


def _batch(kind: str, device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = bytes_and_labels(COUNT, SIDE)
    return (images if kind == "bytes" else images.float() / 255).to(device), labels.to(device)


def _steps(engine: cp.Engine, inputs: Tensor, targets: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
    """Run so many steps, with a forward pass where a method has to do with it."""
    edited = []
    for _ in range(count):
        with engine.batch(inputs, targets) as batch:
            if engine.plan.hooks:
                with engine.forward():
                    engine.model(batch.inputs)
            edited.append((batch.inputs, batch.targets))
    return edited


@contextmanager
def _waiting_is_an_error(device: torch.device) -> Iterator[None]:
    wait(device)
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        wait(device)


def run_unwaited(setup: Setup) -> Result:
    """Run steps of every method, and of the chain in both ways, where waiting for the GPU is an error."""
    found: dict[str, str] = {}
    works: dict[str, Callable[[int], object]] = {}
    for name, (methods, kind) in METHODS.items():
        works[name] = partial(_steps, _engine(methods, kind, setup.device), *_batch(kind, setup.device))
    given = _batch("bytes", setup.device)
    for compiled in (False, True):
        works[f"the chain, {COMPILED if compiled else EAGER}"] = partial(_call, ours(setup, compiled=compiled), given)
    for name, work in works.items():
        try:
            work(3)  # what is made once may wait, and a plan compiles when it comes by a second time
            with _waiting_is_an_error(setup.device):
                work(STEPS)
            found[name] = "ok"
        except Exception as error:  # noqa: BLE001 - whatever one raises, the others are tried
            found[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    how = "where waiting is an error" if setup.device.type == "cuda" else "on a CPU, which cannot be waited for"
    print(f"\n| {STEPS} steps, {how} | |\n| --- | --- |")
    for name, what in found.items():
        print(f"| {name} | {what} |")
    failed = sum(what != "ok" for what in found.values())
    return {"steps": STEPS, "found": found}, [Goal("methods that make the host wait", 0, failed, at_least=False)]


def _call(plan: Callable[[Tensor, Tensor], object], given: tuple[Tensor, Tensor], count: int) -> None:
    for _ in range(count):
        plan(*given)


def _calls(plan: cp.Plan, drawn: dict[str, Any]) -> list[Call]:
    """Return the edits of a plan that has no choices, with draws that were made before."""
    return [Call(edit, drawn.get(step.identity)) for step in plan.steps for edit in bind(step).work.edits]


def _captured(device: torch.device, work: Callable[[], None]) -> Callable[[], None]:
    """Return what does the work again: the replay of a graph, on a CPU the work itself."""
    if device.type != "cuda":
        work()
        return work
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _tensors(drawn: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_draws(found.append, drawn)
    return found


def replay_graph(setup: Setup) -> Result:
    """Capture the edits of the chain, and compare replays, on other bytes and draws each time, with eager ones."""
    plan, device = ours(setup, compiled=False).plan, setup.device
    images, labels = _batch("bytes", device)
    spec = cp.BatchSpec(COUNT, (3, SIDE, SIDE), CLASSES)

    def moved(step: int) -> dict[str, Any]:
        return {name: map_draws(lambda tensor: tensor.to(device), one) for name, one in plan.draws(step, spec).items()}

    def edited(inputs: Tensor, targets: Tensor, drawn: dict[str, Any]) -> tuple[Tensor, Tensor]:
        kinds = plan.facts.inputs, plan.facts.task.targets, plan.facts.task.name, CLASSES
        with torch.no_grad():
            batch = run_calls(_calls(plan, drawn), cp.Batch(inputs, targets, *kinds))
        return batch.inputs, batch.targets

    static, drawn, held = (images.clone(), labels.clone()), moved(0), {}

    def work() -> None:
        held["result"] = edited(*static, drawn)

    replay, alike = _captured(device, work), []
    for step in (1, 2, 3):
        given = images.roll(step, 0), labels.roll(step, 0)
        for place, new in zip([*static, *_tensors(drawn)], [*given, *_tensors(moved(step))], strict=True):
            place.copy_(new)
        replay()
        alike.append(all(map(torch.equal, held["result"], edited(*given, moved(step)))))
    print(f"\nreplays of the captured edits are equal to eager ones, bit for bit: {alike}")
    return {"equal": alike}, [
        Goal("replays of a graph of the edits that differ from eager", 0, alike.count(False), at_least=False)
    ]


def count_recompiles(setup: Setup) -> Result:
    """Count the graphs that steps compile beyond the first, as their draws change."""
    import torch._dynamo

    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    _call(ours(setup, compiled=True), _batch("bytes", setup.device), setup.steps)
    graphs = counters["stats"]["unique_graphs"]
    if graphs == 0:
        raise AssertionError("nothing was compiled")
    print(f"\ngraphs compiled over {setup.steps} steps: {graphs}")
    return {"steps": setup.steps, "graphs": graphs}, [
        Goal(f"graphs beyond the first over {setup.steps} steps", 0, graphs - 1, at_least=False)
    ]


def same_as_the_host(setup: Setup) -> Result:
    """Compare the batches of the device with those of the CPU, of one plan, seed and step."""
    found: dict[str, Any] = {}
    print("\n| GPU against CPU, same plan, step and seed | largest difference | bits | |\n| --- | --- | --- | --- |")
    for name, (methods, kind) in METHODS.items():
        try:
            found[name] = _difference(methods, kind, setup.device)
        except Exception as error:  # noqa: BLE001 - whatever one raises, the others are tried
            found[name] = {"holds": False, "failed": f"{type(error).__name__}: {error}"}
        one = found[name]
        result = one.get("failed") or ("holds" if one["holds"] else "DIFFERS")
        print(f"| {name} | {one.get('largest', 0):.1e} | {'equal' if one.get('equal') else 'not equal'} | {result} |")
    off = sum(not one["holds"] for one in found.values())
    return found, [Goal("methods whose GPU batches are not the CPU's", 0, off, at_least=False)]


def _difference(methods: list[Any], kind: str, device: torch.device) -> dict[str, Any]:
    engine = _engine(methods, kind, torch.device("cpu"))
    there = cp.Engine(engine.plan, model=copy.deepcopy(engine.model).to(device))
    largest, equal, holds = 0.0, True, True
    for one, other in zip(
        _steps(engine, *_batch(kind, torch.device("cpu")), 3), _steps(there, *_batch(kind, device), 3), strict=True
    ):
        for ours_, theirs in zip(one, other, strict=True):
            back = theirs.cpu()
            gap = (ours_.double() - back.double()).abs()
            largest, equal = max(largest, float(gap.max())), equal and torch.equal(ours_, back)
            close = torch.finfo(ours_.dtype).eps * 4 if ours_.is_floating_point() else 0
            holds &= ours_.dtype == back.dtype and bool((gap <= close * (1 + ours_.double().abs())).all())
    return {"largest": largest, "equal": equal, "holds": holds}
