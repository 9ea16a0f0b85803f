"""A batch means one thing in every loop: what the loop takes from its loader in one go, also where several make a step.

And each process draws for its own batches: here as the second of two, without starting another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from accelerate import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from transformers import TrainingArguments

import counterpoint as cp
from counterpoint.integrations.accelerate import AcceleratedSteps
from counterpoint.integrations.lightning import CounterpointCallback, events
from tests.integrations import hf, recipe
from tests.integrations.lit import QUIET, Module, compose, loader, make_trainer

pytestmark = QUIET
PARTS = 4
BATCHES = 8
STEPS = BATCHES // PARTS


class Numbers(cp.Algorithm[None], name="numbers"):
    """Edits nothing, and notes the number of each batch on which it acts."""

    @cp.before(cp.Event.BATCH, reads="inputs")
    def go(self, state: None, scope: cp.Scope) -> None:
        SEEN.append(scope.step)


SEEN: list[int] = []


def plain(plan: cp.Plan, folder: Path) -> cp.Engine:
    net = recipe.model()
    engine = cp.Engine(plan, model=net, optimizer=recipe.optimizer(net))
    for group in recipe.groups(PARTS)[:STEPS]:
        with ExitStack() as opened:
            parts = [opened.enter_context(engine.batch(*batch)) for batch in group]

            def closure(parts: list[cp.Batch] = parts) -> Tensor:
                losses = [plan.loss(net(part.inputs), part.targets) / PARTS for part in parts]
                torch.stack(losses).sum().backward()
                return torch.stack(losses).sum().detach()

            engine.step(closure)
    return engine


def accelerated(plan: cp.Plan, folder: Path) -> cp.Engine:
    accelerator, net = Accelerator(cpu=True), recipe.model()
    engine = cp.Engine(plan, model=net)
    model, engine.optimizer = accelerator.prepare(net, recipe.optimizer(net))
    steps: AcceleratedSteps[Any] = AcceleratedSteps(engine, accelerator, model)
    for group in steps.groups(recipe.batches(PARTS)[:BATCHES], PARTS):
        steps.step(group)
    return engine


def lit(plan: cp.Plan, folder: Path, *, manual: bool = False) -> cp.Engine:
    callback = CounterpointCallback(plan, criterion="criterion")
    module = Module(manual_parts=PARTS if manual else 0)
    trainer = make_trainer(callback, accumulate_grad_batches=1 if manual else PARTS, limit_train_batches=BATCHES)
    trainer.fit(module, loader(PARTS))
    assert trainer.global_step == STEPS
    return callback.engine


def lit_by_hand(plan: cp.Plan, folder: Path) -> cp.Engine:
    return lit(plan, folder, manual=True)


def hugging_face(plan: cp.Plan, folder: Path) -> cp.Engine:
    trainer = hf.trainer(folder, plan, gradient_accumulation_steps=PARTS, max_steps=STEPS)
    trainer.train()
    assert trainer.state.global_step == STEPS
    return trainer.engine


LOOPS = {"plain": plain, "accelerate": accelerated, "lightning": lit, "lit-manual": lit_by_hand, "hf": hugging_face}
every_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


def weights(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("net."): value.clone() for name, value in values.items()}


@pytest.mark.slow
@pytest.mark.kind("7c")
@every_loop
@pytest.mark.parametrize(
    ("when", "acted"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"start": "3ba", "end": "6ba"}, [3, 4, 5]),
        ({"every": 3}, [0, 3, 6]),
        ({"start": "0.5dur"}, [4, 5, 6, 7]),
    ],
)
def test_schedules_count_batches_of_the_loader(
    loop: Callable[[cp.Plan, Path], cp.Engine], when: dict[str, Any], acted: list[int], tmp_path: Path
) -> None:
    facts = {"max_duration": "8ba"} if "dur" in str(when) else {}
    SEEN.clear()
    engine = loop(compose(Numbers(**when), **facts), tmp_path)
    assert acted == SEEN
    assert engine.batches == BATCHES


@pytest.mark.slow
@pytest.mark.kind("7c")
@every_loop
def test_the_average_is_the_same_in_every_loop(loop: Callable[[cp.Plan, Path], cp.Engine], tmp_path: Path) -> None:
    """Of eight batches in two steps, with a half-life in batches; edits differ from batch to batch."""
    plan = compose({"name": "ema", "half_life": 8.0, "warmup": False}, "mixup", "cutout")
    engine, wanted = loop(plan, tmp_path), plain(plan, tmp_path)
    assert engine.batches == wanted.batches == BATCHES
    with engine.evaluation(), wanted.evaluation():
        found, right = weights(engine.model.state_dict()), weights(wanted.model.state_dict())
    for name, value in right.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert not torch.equal(found["1.weight"], weights(engine.model.state_dict())["1.weight"])


@pytest.mark.kind("30")
class TestRanks:
    """Each process draws its own: what the second of two trains on is not what the first does."""

    def edited(self, rank: int) -> list[tuple[Tensor, Tensor]]:
        plan = compose("mixup", "cutout")
        return [plan(*batch, step=step, rank=rank) for step, batch in enumerate(recipe.batches()[:2])]

    def check(self, seen: list[tuple[Tensor, Tensor]]) -> None:
        assert len(seen) == 2
        for (inputs, targets), mine, other in zip(seen, self.edited(1), self.edited(0), strict=True):
            assert torch.equal(inputs, mine[0])
            assert torch.equal(targets, mine[1])
            assert not torch.equal(inputs, other[0])

    def test_in_lightning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[Tensor, Tensor]] = []

        class Sees(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                seen.append(tuple(batch))
                return super().training_step(batch, batch_idx)

        monkeypatch.setattr(pl.Trainer, "global_rank", property(lambda trainer: 1))
        callback = CounterpointCallback(compose("mixup", "cutout"), criterion="criterion")
        make_trainer(callback, limit_train_batches=2).fit(Sees(), loader())
        assert callback.engine.rank == 1
        self.check(seen)

    @pytest.mark.slow
    def test_in_the_trainer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[Tensor, Tensor]] = []
        monkeypatch.setattr(TrainingArguments, "process_index", property(lambda args: 1))

        class Sees(hf.Net):
            def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
                seen.append((pixel_values, trainer.fields.read(trainer._parts[0])[1]))
                return super().forward(pixel_values)

        trainer = hf.trainer(tmp_path, compose("mixup", "cutout"), Sees(*recipe.model()), max_steps=2)
        trainer.train()
        self.check(seen)

    @pytest.mark.parametrize(("rank", "real"), [(0, 8), (1, 3), (2, 0)])
    def test_repeated_samples_do_not_count_in_the_trainers_evaluation(
        self, rank: int, real: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of 11 samples that are left for the last batches of 8 of three processes."""
        class_weights = torch.linspace(0.5, 2, recipe.CLASSES)
        plan = compose("mixup", loss=nn.CrossEntropyLoss(class_weights))
        trainer = hf.trainer(tmp_path, plan)
        monkeypatch.setattr(TrainingArguments, "process_index", property(lambda args: rank))
        loader = SimpleNamespace(end_of_dataloader=True, remainder=11)
        monkeypatch.setattr(trainer, "accelerator", SimpleNamespace(gradient_state=loader))
        batch = hf.batch(8)
        with torch.no_grad():
            trainer.compute_loss(trainer.model, batch)
            outputs = recipe.model()(batch["pixel_values"])
        ((total, weight),) = trainer._evaluated
        assert weight.item() == pytest.approx(class_weights[batch["labels"][:real]].sum().item())
        if real:
            loss = nn.functional.cross_entropy(outputs[:real], batch["labels"][:real], class_weights)
            assert (total / weight).item() == pytest.approx(loss.item(), abs=1e-6)

    def test_the_loss_of_an_evaluation_is_that_of_all_processes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other process has a loss of 4 over a weight of 10."""
        trainer = hf.trainer(tmp_path, compose())
        alone = trainer.evaluate()["eval_loss"]
        reduce = trainer.accelerator.reduce

        def together(value: Tensor, how: str) -> Tensor:
            assert how == "sum"
            return reduce(value, how) + torch.tensor([40.0, 10.0])

        monkeypatch.setattr(trainer.accelerator, "reduce", together)
        assert trainer.evaluate()["eval_loss"] == pytest.approx((40 * alone + 40) / 50, abs=1e-6)


class Notes(cp.Algorithm[None], name="notes_loss"):
    """Notes the loss of each step."""

    @cp.after(cp.Event.STEP, reads="loss")
    def go(self, state: None, scope: cp.Scope) -> None:
        LOSSES.append(scope.loss.item())


LOSSES: list[float] = []


@pytest.mark.slow
@pytest.mark.kind("30")
@every_loop
def test_the_loss_of_a_step_is_that_of_all_its_batches(
    loop: Callable[[cp.Plan, Path], cp.Engine], tmp_path: Path
) -> None:
    """Not of the last one; a number worked out by hand for the first step, whose weights are known."""
    LOSSES.clear()
    loop(compose(Notes()), tmp_path)
    net = recipe.model()
    by_hand = [nn.functional.cross_entropy(net(x), y).item() for x, y in recipe.batches(PARTS)[:PARTS]]
    assert len(LOSSES) == STEPS
    assert LOSSES[0] == pytest.approx(sum(by_hand) / PARTS, abs=1e-6)
    assert abs(LOSSES[0] - by_hand[-1]) > 1e-3


@pytest.mark.kind("30")
def test_gradients_are_shared_once_a_step_in_the_trainer(tmp_path: Path) -> None:
    """As the first of two processes, whose other has batches of three times the weight; parts of 8, 8 and 4 samples."""
    trainer = hf.trainer(tmp_path, compose())
    entered: list[str] = []
    sizes = [8, 8, 4]
    parts = [{key: value[:size] for key, value in hf.batch(8).items()} for size in sizes]

    @contextmanager
    def no_sync(model: nn.Module) -> Iterator[None]:
        assert model is trainer.model
        entered.append("waits")
        yield

    def backward(loss: Tensor) -> None:
        entered.append("backward")
        loss.backward()

    trainer.accelerator = SimpleNamespace(
        backward=backward, no_sync=no_sync, num_processes=2, reduce=lambda count, how: count * 4
    )
    with ExitStack() as opened:
        trainer._parts = [opened.enter_context(trainer.fields.edited(trainer.engine, part)) for part in parts]
        loss = trainer._passes(trainer.model)()
    assert entered == ["waits", "backward", "waits", "backward", "backward"]
    # This process has 20 of 80 samples, and the mean over both processes is the global loss.
    net = recipe.model()
    images, labels = (torch.cat([part[key] for part in parts]) for key in ("pixel_values", "labels"))
    wanted = nn.functional.cross_entropy(net(images), labels, reduction="sum") * 2 / 80
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    for one, other in zip(trainer.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-6)


@pytest.mark.kind("30")
def test_gradients_are_shared_once_a_step_on_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator, net = Accelerator(cpu=True), recipe.model()
    engine = cp.Engine(compose(), model=net)
    model, engine.optimizer = accelerator.prepare(net, recipe.optimizer(net))
    steps: AcceleratedSteps[Any] = AcceleratedSteps(engine, accelerator, model)
    entered: list[nn.Module] = []

    @contextmanager
    def no_sync(of: nn.Module) -> Iterator[None]:
        entered.append(of)
        yield

    monkeypatch.setattr(accelerator, "no_sync", no_sync)
    steps.step(recipe.batches(PARTS)[:PARTS])
    assert entered == [model] * (PARTS - 1)
    steps.step(recipe.batches(PARTS)[:1])
    assert len(entered) == PARTS - 1


@pytest.mark.kind("30")
def test_passes_that_are_repeated_share_gradients_once_in_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM runs the four batches of a step again; three of them wait."""
    entered: list[int] = []

    @contextmanager
    def block_backward_sync(strategy: Any) -> Iterator[None]:
        entered.append(1)
        yield

    monkeypatch.setattr(events, "ParallelStrategy", SingleDeviceStrategy)
    monkeypatch.setattr(SingleDeviceStrategy, "block_backward_sync", block_backward_sync, raising=False)
    lit(compose("sam"), Path())
    assert len(entered) == STEPS * (PARTS - 1)
