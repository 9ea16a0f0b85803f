"""What is not a batch's edit: the engine's events, the trainer, recompiling, importing, and memory."""

from __future__ import annotations

import copy
import gc
import io
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from torch import Tensor, nn

import counterpoint as cp
from benchmarks.batches import CHAIN, COMPILED, EAGER, Goal, bytes_and_labels
from benchmarks.check import CLASSES
from benchmarks.contenders import Ours
from benchmarks.timing import medians
from counterpoint.core.tensors.buffers import empty_like

__all__ = ["measure"]

EPOCHS = 3
DIGITS = Path(__file__).parents[1] / "examples" / "digits.yaml"


def measure() -> list[Goal]:
    """Measure everything here."""
    return [*memory(), engine_event(), trainer(), recompiles(), first_compose()]


class Hooked(cp.Algorithm[None], name="hooked"):
    """A method that does nothing before each loss."""

    @cp.before(cp.Event.LOSS, reads="parameters")
    def act(self, state: None, scope: cp.Scope) -> None:
        """Do nothing."""


def engine_event() -> Goal:
    """Time an event with ten algorithms that all act, against Composer's."""
    model = nn.Linear(2, 2)
    plan = cp.compose(
        [Hooked(id=f"hook{number}") for number in range(10)], contract="off", task="regression", inputs="features"
    )
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))

    def ours() -> None:
        with engine.loss():
            pass

    with engine.batch(torch.zeros(1, 2), torch.zeros(1, 2)):
        works: dict[str, Callable[[], Any]] = {"ours": ours}
        with suppress(ImportError):
            works["Composer"] = _composer_event(model)
        times = medians(works, calls=200)
    print("\nan event with 10 algorithms: " + ", ".join(f"{name} {1e3 * took:.2f} µs" for name, took in times.items()))
    return Goal("an event with 10 algorithms, against Composer", 50, times.get("Composer", 0) / times["ours"] or None)


def _composer_event(model: nn.Module) -> Callable[[], Any]:
    core = import_module("composer.core")
    models = import_module("composer.models")

    class Wrapped(models.ComposerModel):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Any) -> Any:
            return batch

        def loss(self, outputs: Any, batch: Any) -> Any:
            return outputs

    class Idle(core.Algorithm):  # type: ignore[name-defined, misc]
        def match(self, event: Any, state: Any) -> bool:
            return bool(event == core.Event.BEFORE_LOSS)

        def apply(self, event: Any, state: Any, logger: Any) -> None:
            """Do nothing."""

    state = core.State(
        model=Wrapped(),
        rank_zero_seed=0,
        run_name="run",
        device=import_module("composer.devices").DeviceCPU(),
        algorithms=[Idle() for _ in range(10)],
    )
    state.set_dataloader([0], "train")
    state.max_duration = "1ep"
    engine = core.Engine(state, import_module("composer.loggers").Logger(state))
    return lambda: engine.run_event(core.Event.BEFORE_LOSS)


def trainer() -> Goal:
    """Time the trainer on the digits against a loop by hand: three epochs and an evaluation, images per second."""
    from counterpoint.trainer.loop.loop import Loop

    config = yaml.safe_load(DIGITS.read_text(encoding="utf-8"))
    config |= {"max_duration": f"{EPOCHS}ep", "eval_every": f"{EPOCHS}ep"}
    config.pop("run_dir")
    took: dict[str, list[float]] = {"trainer": [], "by hand": []}
    run = Loop.run

    def timed(loop: Loop) -> bool:
        began = time.perf_counter()
        done = run(loop)
        took["trainer"].append(time.perf_counter() - began)
        return done

    for _ in range(2 + 15):
        with mock.patch.object(Loop, "run", timed), redirect_stdout(io.StringIO()):
            cp.Trainer(config).fit()
        took["by hand"].append(_by_hand(config))
    trainer, hand = (statistics.median(found[2:]) for found in took.values())
    images = 11 * 128 * EPOCHS
    print(f"\ndigits: trainer {images / trainer:.0f} images/s, by hand {images / hand:.0f}")
    return Goal("trainer on digits, time against a loop by hand", 1.05, trainer / hand, at_least=False)


def _by_hand(config: dict[str, Any]) -> float:
    """Train and evaluate as the config says with torch alone, and return the seconds it took."""
    from counterpoint.trainer.data import Digits
    from counterpoint.trainer.models import SmallCNN

    data = Digits().build()
    model = SmallCNN().build(data.spec)
    average = copy.deepcopy(model)
    move: Any = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    numbers = np.random.default_rng(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    began = time.perf_counter()
    train: Any = torch.utils.data.DataLoader(data.train, batch_size=128, shuffle=True, drop_last=True)  # type: ignore[arg-type]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(train) * EPOCHS)
    for _ in range(EPOCHS):
        for images, labels in train:
            inputs, targets = _edited(images, labels, numbers)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
            if not math.isfinite(loss.item()):
                raise ValueError("the loss is not finite")
            move(list(average.parameters()), list(model.parameters()), 0)
    average.eval()
    with torch.no_grad():
        for images, labels in torch.utils.data.DataLoader(data.evaluation, batch_size=128):  # type: ignore[arg-type]
            (average(images).argmax(1) == labels).sum().item()
    return time.perf_counter() - began


def _edited(images: Tensor, labels: Tensor, numbers: np.random.Generator) -> tuple[Tensor, Tensor]:
    """CutOut with a hole for each image, MixUp, and smoothed dense targets."""
    count, _, height, width = images.shape
    side = height // 2
    top = torch.as_tensor(numbers.integers(0, height, count)).view(-1, 1, 1, 1) - side // 2
    left = torch.as_tensor(numbers.integers(0, width, count)).view(-1, 1, 1, 1) - side // 2
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width)
    hole = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    inputs = images.masked_fill_(hole, 0.0)
    targets = nn.functional.one_hot(labels, CLASSES).float() * 0.9 + 0.1 / CLASSES
    share, partners = float(numbers.beta(0.2, 0.2)), torch.as_tensor(numbers.permutation(count))
    return inputs.lerp_(inputs[partners], 1 - share), targets.lerp_(targets[partners], 1 - share)


def recompiles() -> Goal:
    """Count the graphs that 200 steps compile beyond the first."""
    import torch._dynamo

    images, labels = bytes_and_labels(64, 32)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    ours = Ours(COMPILED, CHAIN, inputs="bytes", compile=True)
    for _ in range(200):
        ours(images, labels)
    graphs = counters["stats"]["unique_graphs"]
    if graphs == 0:
        raise AssertionError("nothing was compiled")
    return Goal("graphs beyond the first over 200 steps", 0, graphs - 1, at_least=False)


# `import pydantic` alone loads next to nothing of it: its models come with the first name that is taken from it.
FIRST = """
import time, torch
from pydantic import BaseModel, Field
began = time.perf_counter()
import counterpoint as cp
cp.compose(["mixup", "cutout", "label_smoothing", "ema"], loss=torch.nn.CrossEntropyLoss(), task="multiclass",
           num_classes=10)
print(1e3 * (time.perf_counter() - began))
"""


def first_compose() -> Goal:
    """Time the import and a first ``compose``, over torch and pydantic, in processes of their own."""
    command = [sys.executable, "-W", "ignore", "-c", FIRST]
    took = [float(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(7)]
    return Goal("import and a first compose, ms over torch and pydantic", 150, statistics.median(took), at_least=False)


def memory() -> list[Goal]:
    """Measure what the chain holds beyond what it is given, as a share of a float32 batch."""
    images, labels = bytes_and_labels(128, 224)
    values = images.float().div_(255)
    goals = []
    for name, given, aim in ((COMPILED, images, 1.0), (EAGER, images, 1.0), (EAGER, values, 0.05)):
        in_place = given is values
        settings = {"inputs": "normalized" if in_place else "bytes", "compile": name == COMPILED}
        ours = Ours(name, CHAIN[in_place:], donate=in_place, **settings)
        most = _most_memory(lambda ours=ours, given=given: ours(given, labels))
        del ours
        empty_like(torch.empty(1, 1 << 20))  # memory that waits to be used again is given up for another size
        goals.append(
            Goal(
                f"extra memory in batches{', in place' * in_place}, {name}",
                aim,
                round((most - _status("VmRSS")) / values.nbytes, 3),
                at_least=False,
            )
        )
    return goals


def _most_memory(work: Callable[[], Any]) -> int:
    """Return the most bytes that this process holds while the work is done again and again."""
    for _ in range(3):
        work()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for _ in range(5):
        work()
    return _status("VmHWM")


def _status(name: str) -> int:
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
