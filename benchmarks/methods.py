"""What each method costs: time and memory of its work on one batch, as the cards in docs/methods state them.

Run ``python benchmarks/methods.py``; it takes about a minute on one core.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import counterpoint as cp
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.models import ResNet50

BATCH, SHAPE, CLASSES, RUNS = 128, (3, 224, 224), 1000, 25
METHODS: dict[str, Any] = {
    "mixup": "mixup",
    "cutmix": "cutmix",
    "cutout": "cutout",
    "label_smoothing": "label_smoothing",
    "one_of mixup, cutmix": {"name": "one_of", "algorithms": ["mixup", "cutmix"]},
}


class Memory(TorchDispatchMode):
    """Counts the bytes of the storages that are made while it is on: those alive now, and the most at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and take note of the storages of its results."""
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in given | self._known:
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), storage._cdata
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size, key)

    def _forget(self, size: int, key: int) -> None:
        self.now -= size
        self._known.discard(key)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def milliseconds(work: Callable[[int], object]) -> float:
    """Return the shortest time of a call: what it takes where nothing else runs."""
    taken = []
    for step in range(RUNS):
        began = time.perf_counter()
        work(step)
        taken.append(time.perf_counter() - began)
    return 1e3 * min(taken)


def batch_methods() -> None:
    """Print what the methods that edit batches cost."""
    inputs, targets = torch.randn(BATCH, *SHAPE), torch.randint(CLASSES, (BATCH,))
    size = inputs.untyped_storage().nbytes()
    print(f"{BATCH} images of {SHAPE}, float32: {size / 2**20:.0f} MiB; {CLASSES} classes; one thread")
    for name, method in METHODS.items():
        plan = cp.compose([method], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=CLASSES)
        steps = range(5, 25)
        with Memory() as memory:
            for step in steps:
                plan(inputs, targets, step)
        kept = milliseconds(lambda step, plan=plan: plan(inputs, targets, step + 5))
        given = milliseconds(lambda step, plan=plan: plan(inputs, targets, step + 5, donate=True))
        print(
            f"{name:22} {kept:6.1f} ms, donated {given:6.1f} ms, at most {memory.peak / size:.2f} batches more memory"
        )


def ema() -> None:
    """Print what EMA costs on a ResNet-50; the batch's own work is next to nothing."""
    model = ResNet50().build(DataSpec("multiclass", "normalized", SHAPE, CLASSES))
    plan = cp.compose(["ema"], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=CLASSES)
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    inputs, targets = torch.randn(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)

    def update(step: int) -> None:
        with engine.batch(inputs, targets):
            engine.step(lambda: torch.zeros(()))

    def evaluation(step: int) -> None:
        with engine.evaluation():
            pass

    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    held = sum(tensor.nbytes for tensor in engine.state_dict().values()) / weights
    print(f"ema on ResNet-50 ({weights / 2**20:.0f} MiB of weights and buffers)")
    print(f"{'an update':22} {milliseconds(update):6.1f} ms, holds {held:.2f} x the weights")
    with Memory() as memory:
        evaluation(0)
    print(f"{'an evaluation':22} {milliseconds(evaluation):6.1f} ms, {memory.peak / weights:.2f} x the weights more")


def steps() -> None:
    """Print what methods of the step add to it on a ResNet-50, where its passes and the optimizer cost nothing."""
    model = ResNet50().build(DataSpec("multiclass", "normalized", SHAPE, CLASSES))
    gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
    inputs, targets = torch.randn(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)

    def closure() -> torch.Tensor:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return torch.zeros(())

    for name in ("sam", "gradient_clipping", {"name": "swa", "start": "0ba"}):
        plan = cp.compose([name], loss=torch.nn.CrossEntropyLoss(), task="multiclass", num_classes=CLASSES)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        engine = cp.Engine(plan, model=model, optimizer=optimizer, update=lambda: None)

        def step(number: int, engine: cp.Engine = engine) -> None:
            with engine.batch(inputs, targets):
                engine.step(closure)

        with Memory() as memory:
            step(0)
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        more = memory.peak / weights
        print(f"{plan.order[0]:22} {milliseconds(step):6.1f} ms, at most {more:.2f} x the weights more")


if __name__ == "__main__":
    torch.set_num_threads(1)
    batch_methods()
    ema()
    steps()
