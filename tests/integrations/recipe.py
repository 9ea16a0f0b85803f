"""One small training run that every loop repeats: the same model, data, order, methods and seed, 20 steps.

``plain`` and ``split`` are loops by hand over an engine, which differ in what several microbatches of a step are to the
plan: device batches each, or parts of one. ``reference`` is the same without an engine, from printed draws; it agrees
with both bit for bit, and with SAM to rounding. An integration's test trains ``model()`` with ``optimizer(model)`` on
``items(...)`` in this order and compares what it gets with them.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

import counterpoint as cp
import counterpoint.functional as CF

SEED = 17
STEPS = 20
SIZE = 8
"""Samples in a batch of the loader."""
CLASSES = 4
SHAPE = (1, 6, 6)
HALF_LIFE = 5.0
THRESHOLD = 0.25
"""Gradients are clipped to this norm; most of this run's are longer."""
RHO = 0.05


@dataclass(frozen=True)
class Result:
    """The weights after the last step, those for evaluation, and the loss of each step."""

    weights: dict[str, Tensor]
    averaged: dict[str, Tensor]
    losses: list[float]


def methods(*, sam: bool = False) -> list[dict[str, object]]:
    """The methods of the recipe, listed out of order; with ``sam``, its step is SAM's."""
    listed: list[dict[str, object]] = [
        {"name": "gradient_clipping", "threshold": THRESHOLD},
        {"name": "ema", "half_life": HALF_LIFE, "warmup": False},
        {"name": "label_smoothing", "smoothing": 0.1},
        {"name": "mixup", "alpha": 0.4},
        {"name": "cutout", "length": 0.5},
    ]
    return [*listed, {"name": "sam", "rho": RHO}] if sam else listed


def plan(*, sam: bool = False) -> cp.Plan:
    """The recipe, composed."""
    return cp.compose(
        methods(sam=sam),
        loss=nn.CrossEntropyLoss(),
        task="multiclass",
        num_classes=CLASSES,
        inputs="normalized",
        seed=SEED,
        contract="always",
    )


def model() -> nn.Module:
    """A fresh model, the same each time; no dropout, no batch norm."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return net


def optimizer(net: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)


def items(microbatches: int = 1) -> list[tuple[Tensor, Tensor]]:
    """The samples of the whole run, in order, an image and a class each: ``STEPS * microbatches`` times ``SIZE``."""
    generator = torch.Generator().manual_seed(5)
    count = STEPS * SIZE * microbatches
    images = torch.randn(count, *SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return list(zip(images, labels, strict=True))


def batches(microbatches: int = 1) -> list[tuple[Tensor, Tensor]]:
    """The batches of the loader."""
    images, labels = (torch.stack(part) for part in zip(*items(microbatches), strict=True))
    return list(zip(images.split(SIZE), labels.split(SIZE), strict=True))


def groups(microbatches: int = 1) -> list[list[tuple[Tensor, Tensor]]]:
    """The batches of the loader, those of one optimizer step together."""
    found = batches(microbatches)
    return [found[start : start + microbatches] for start in range(0, len(found), microbatches)]


def weights(net: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights."""
    return {name: value.clone() for name, value in net.state_dict().items()}


def result(engine: cp.Engine, losses: list[float]) -> Result:
    """What a run with an engine ended with."""
    trained = weights(engine.model)
    with engine.evaluation():
        return Result(trained, weights(engine.model), losses)


def plain(microbatches: int = 1, *, sam: bool = False) -> Result:
    """Train where each batch of the loader is a device batch, and ``microbatches`` of them make a step."""
    net = model()
    engine = cp.Engine(plan(sam=sam), model=net, optimizer=optimizer(net))
    losses = []
    for group in groups(microbatches):
        with ExitStack() as opened:
            edited = [opened.enter_context(engine.batch(*batch)) for batch in group]

            def closure(edited: list[cp.Batch] = edited) -> Tensor:
                return _passes(engine, net, [(batch.inputs, batch.targets) for batch in edited])

            losses.append(engine.step(closure).item())
    return result(engine, losses)


def _passes(engine: cp.Engine, net: nn.Module, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    total = torch.zeros(())
    for inputs, targets in parts:
        loss = engine.plan.loss(net(inputs), targets) / len(parts)
        loss.backward()
        total += loss.detach()
    return total


def split(microbatches: int = 1, *, sam: bool = False) -> Result:
    """Train where the batches of a step are one device batch, edited as a whole and then split into microbatches."""
    net = model()
    engine = cp.Engine(plan(sam=sam), model=net, optimizer=optimizer(net))
    losses = []
    for group in groups(microbatches):
        images, labels = (torch.cat(part) for part in zip(*group, strict=True))
        with engine.batch(images, labels) as batch:
            parts = list(zip(batch.inputs.chunk(microbatches), batch.targets.chunk(microbatches), strict=True))

            def closure(parts: list[tuple[Tensor, Tensor]] = parts) -> Tensor:
                return _passes(engine, net, parts)

            losses.append(engine.step(closure).item())
    return result(engine, losses)


def assert_same(one: Result, other: Result) -> None:
    """Both runs ended with the same bits."""
    for part in ("weights", "averaged"):
        first, second = getattr(one, part), getattr(other, part)
        assert first.keys() == second.keys()
        for name in first:
            assert torch.equal(first[name], second[name]), f"{part}.{name}: {(first[name] - second[name]).abs().max()}"
    assert one.losses == other.losses


def assert_close(one: Result, other: Result, *, atol: float) -> None:
    """Both runs ended with the same numbers, but for ``atol``."""
    for part in ("weights", "averaged"):
        first, second = getattr(one, part), getattr(other, part)
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def reference(microbatches: int = 1, *, grouped: bool = True, sam: bool = False) -> Result:
    """The same run by hand: pure functions on printed draws, and every update written out.

    ``grouped``: each batch of the loader is a device batch with a number and draws of its own, and the gradients of
    ``microbatches`` of them make a step. Otherwise they are one device batch.
    """
    composed, net = plan(sam=sam), model()
    sgd = optimizer(net)
    average: dict[str, Tensor] = {}
    losses = []
    for step, group in enumerate(groups(microbatches)):
        if grouped:
            edited = [_edited(composed, step * microbatches + n, *batch) for n, batch in enumerate(group)]
        else:
            images, labels = (torch.cat(part) for part in zip(*group, strict=True))
            images, labels = _edited(composed, step, images, labels)
            edited = list(zip(images.chunk(microbatches), labels.chunk(microbatches), strict=True))
        losses.append(_gradient(composed, net, edited))
        if sam:
            _ascend(composed, net, edited)
        clip_grad_norm_(net.parameters(), THRESHOLD)
        sgd.step()
        now, moved = weights(net), 1 - 0.5 ** ((microbatches if grouped else 1) / HALF_LIFE)
        average = {name: average[name].lerp(now[name], moved) for name in now} if step else now
    return Result(weights(net), average, losses)


def _edited(composed: cp.Plan, number: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    draws = composed.draws(number, cp.BatchSpec(len(images), SHAPE, CLASSES))
    smooth = CF.smooth_labels(CF.dense_targets(labels, CLASSES), 0.1)
    mixing = draws["mixup"]
    return CF.mixup(CF.cutout(images, draws["cutout"]), smooth, mixing.lam, mixing.perm)


def _gradient(composed: cp.Plan, net: nn.Module, edited: list[tuple[Tensor, Tensor]]) -> float:
    net.zero_grad()
    total = torch.zeros(())
    for inputs, targets in edited:
        loss = composed.loss(net(inputs), targets) / len(edited)
        loss.backward()
        total += loss.detach()
    return total.item()


def _ascend(composed: cp.Plan, net: nn.Module, edited: list[tuple[Tensor, Tensor]]) -> None:
    """Take the gradient at the weights moved by ``RHO`` along the one at hand."""
    before = weights(net)
    norm = torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None]).norm()
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter += RHO * parameter.grad / norm
    _gradient(composed, net, edited)
    net.load_state_dict(before)
