"""What an engine does per parameter group, module, batch and microbatch, each tried with several that differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import SelectiveBackprop
from counterpoint.core.run.dice import Dice
from counterpoint.core.run.training.accumulation import Part, Passes
from tests.algorithms.batches import CLASSES, images, plan_for, targets
from tests.algorithms.training import Net, snapshot
from tests.core.methods import check

pytestmark = pytest.mark.kind("30")


class Scalars(nn.Module):
    """Three weights, each a parameter group with a learning rate of its own; the loss is a sum of parabolas."""

    RATES = (0.5, 0.25, 0.125)

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.tensor(x, dtype=torch.float64)) for x in (1.0, -2.0, 3.0)])

    def curves(self) -> Tensor:
        return sum((0.5 * c * w * w for c, w in zip((3.0, 2.0, 4.0), self.weights, strict=True)), torch.tensor(0.0))

    def moved(self, method: dict[str, Any]) -> list[float]:
        """Return by how much an update moves each weight, divided by the learning rate of its group."""
        groups = [{"params": [w], "lr": lr} for w, lr in zip(self.weights, self.RATES, strict=True)]
        engine = cp.Engine(plan_for([method]), model=self, optimizer=torch.optim.SGD(groups))
        before = [w.item() for w in self.weights]

        def closure() -> Tensor:
            loss = self.curves()
            loss.backward()
            return loss.detach()

        with engine.batch(images(2), targets(2)):
            engine.step(closure)
        return [(b - w.item()) / lr for b, w, lr in zip(before, self.weights, self.RATES, strict=True)]


class TestParameterGroups:
    """The gradients are 3, -4 and 12, whose norm is 13."""

    def test_clipping_by_norm_scales_every_group(self) -> None:
        moved = Scalars().moved({"name": "gradient_clipping", "threshold": 1.3})
        assert moved == pytest.approx([0.3, -0.4, 1.2], rel=1e-6)

    def test_clipping_by_value_bounds_every_group(self) -> None:
        moved = Scalars().moved({"name": "gradient_clipping", "by": "value", "threshold": 3.5})
        assert moved == pytest.approx([3.0, -3.5, 3.5])

    def test_sam_perturbs_every_group(self) -> None:
        moved = Scalars().moved({"name": "sam", "rho": 1.3})
        assert moved == pytest.approx([3 * (1 + 0.3), 2 * (-2 - 0.4), 4 * (3 + 1.2)])

    def test_adaptive_sam_perturbs_every_group(self) -> None:
        norm = math.hypot(1 * 3, 2 * 4, 3 * 12)
        steps = [0.5 * w * w * g / norm for w, g in ((1, 3), (2, -4), (3, 12))]
        moved = Scalars().moved({"name": "sam", "rho": 0.5, "adaptive": True})
        assert moved == pytest.approx([c * (w + e) for c, w, e in zip((3, 2, 4), (1, -2, 3), steps, strict=True)])


class TestModes:
    """The extra pass of selective backprop puts each module back into its own mode."""

    @pytest.mark.parametrize(
        "evaluating", [("norm",), ("conv", "head"), ("", "norm"), (), ("", "conv", "norm", "head")]
    )
    @pytest.mark.parametrize("fails", [False, True])
    def test_every_module_keeps_its_own(self, evaluating: tuple[str, ...], fails: bool) -> None:
        model = Net()
        for name, module in model.named_modules():
            module.training = name not in evaluating
        before, tensors = {name: module.training for name, module in model.named_modules()}, snapshot(model)
        seen = []

        def predict(x: Tensor) -> Tensor:
            seen.extend(module.training for module in model.modules())
            if fails:
                raise ZeroDivisionError
            out: Tensor = model(x)
            return out

        engine = cp.Engine(plan_for([SelectiveBackprop()]), model=model, predict=predict)
        with ExitStack() as expected:
            if fails:
                expected.enter_context(pytest.raises((ZeroDivisionError, cp.CounterpointError)))
            with engine.batch(images(6), targets(6)):
                pass
        assert seen == [False] * 4
        assert {name: module.training for name, module in model.named_modules()} == before
        assert snapshot(model) == tensors


SEEN: list[tuple[str, int, Any]] = []


class Sees(cp.Algorithm[Tensor], name="sees"):
    """Notes the step and the draws that each of its hooks sees."""

    def draw(self, batch: cp.BatchSpec, rng: cp.Rng) -> Tensor:
        return rng.uniform(size=(batch.size,))

    def note(self, where: str, scope: cp.Scope) -> None:
        SEEN.append((f"{self.identity} {where}", scope.step, scope.draws.tolist()))

    @cp.before(cp.Event.BATCH, reads="inputs")
    def first(self, state: None, scope: cp.Scope) -> None:
        self.note("before batch", scope)

    @cp.after(cp.Event.STEP, reads="loss")
    def second(self, state: None, scope: cp.Scope) -> None:
        self.note("after step", scope)

    @cp.around(cp.Event.STEP, reads="gradients")
    def third(self, state: None, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
        self.note("around step", scope)
        yield

    @cp.before(cp.Event.UPDATE, reads="gradients")
    def fourth(self, state: None, scope: cp.Scope) -> None:
        self.note("before update", scope)

    @cp.after(cp.Event.BATCH, reads="inputs")
    def fifth(self, state: None, scope: cp.Scope) -> None:
        self.note("after batch", scope)


PLACES = ["before batch", "around step", "before update", "after step", "after batch"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("p", [1.0, 0.5])
def test_hooks_see_the_step_and_the_draws_of_their_batch(p: float, rank: int) -> None:
    plan = check([Sees(id="one", p=p), Sees(id="two", every=2)])
    model = nn.Linear(1, 1)
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), rank=rank)
    acted = set()
    for step in range(12):
        SEEN.clear()
        size = 2 + step % 3
        with engine.batch(torch.rand(size, 1, 4, 4), torch.arange(size) % 4) as batch:
            wanted = {name: drawn.tolist() for name, drawn in plan.draws(step, batch.spec, rank=rank).items()}
            assert {name: drawn.tolist() for name, drawn in engine.draws().items()} == wanted
            engine.step(lambda: torch.zeros(()))
        dice = Dice(plan.facts.seed, step, rank)
        acting = [member.identity for member in plan.members if dice.acts(member)]
        assert set(wanted) == set(acting)
        assert sorted(SEEN) == sorted((f"{name} {place}", step, wanted[name]) for name in acting for place in PLACES)
        acted.add(tuple(acting))
    assert len(acted) > 1


def test_in_a_step_of_several_batches_hooks_see_the_first_on_which_they_act() -> None:
    plan = check([Sees(id="one", every=3), Sees(id="two", start="1ba")])
    model = nn.Linear(1, 1)
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    for first in (0, 2, 4):
        SEEN.clear()
        with ExitStack() as opened:
            draws = []
            for _ in range(2):
                opened.enter_context(engine.batch(torch.rand(3, 1, 4, 4), torch.arange(3)))
                draws.append({name: drawn.tolist() for name, drawn in engine.draws().items()})
            engine.step(lambda: torch.zeros(()))
        for name in ("one", "two"):
            number = next((n for n, drawn in enumerate(draws) if name in drawn), None)
            found = [entry for entry in SEEN if entry[0] == f"{name} after step"]
            assert found == ([] if number is None else [(f"{name} after step", first + number, draws[number][name])])


class Wraps(cp.Algorithm[None], name="wraps"):
    """Runs the closure in its place, and notes when."""

    @cp.replace(cp.Event.STEP, writes="gradients")
    def run(self, state: None, scope: cp.Scope, run: Callable[[], Tensor]) -> Tensor:
        SEEN.append((f"{self.identity} begins", scope.step, None))
        loss = run()
        SEEN.append((f"{self.identity} ends", scope.step, None))
        return loss * 2 if self.identity == "one" else loss + 1


def test_hooks_in_place_of_a_step_are_nested_in_the_order_of_the_plan() -> None:
    for listed in ([Wraps(id="one"), Wraps(id="two", after="one")], [Wraps(id="two", after="one"), Wraps(id="one")]):
        plan, model = check(list(listed)), nn.Linear(1, 1)
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
        SEEN.clear()
        with engine.batch(torch.rand(2, 1, 4, 4), torch.tensor([0, 1])):
            loss = engine.step(lambda: torch.tensor(5.0))
        assert [where for where, _, _ in SEEN] == ["one begins", "two begins", "two ends", "one ends"]
        assert loss.item() == 12


@pytest.mark.parametrize(
    "methods", [["mixup", "cutout"], [{"name": "one_of", "algorithms": ["mixup", "cutmix"]}]], ids=str
)
@pytest.mark.parametrize("compiled", [False, True])
def test_draws_are_listed_of_the_methods_that_act(
    methods: list[Any], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    monkeypatch.setattr(
        "counterpoint.core.run.batch.compilation.ACTIVE_SETS", 1
    )  # then methods that do not act are drawn for too
    chance = [{**({"name": method} if isinstance(method, str) else method), "p": 0.5} for method in methods]
    plan = plan_for(chance, contract="off", compile=compiled)
    engine, found = cp.Engine(plan, model=nn.Identity()), set()
    for step in range(16):
        dice, wanted = Dice(plan.facts.seed, step, 0), set()
        for member in plan.members:
            if dice.acts(member):
                wanted |= {member.identity}
                wanted |= {dice.chosen(member).identity} if member.branches else set()
        with engine.batch(images(4), targets(4)):
            assert set(engine.draws()) == wanted
        found.add(frozenset(wanted))
    assert len(found) > 2


class TestContract:
    """A hook that writes what it does not declare is found, in gradients and in buffers alike."""

    @pytest.mark.parametrize("phase", ["before", "after"])
    @pytest.mark.parametrize("what", ["gradients", "buffers", "parameters"])
    def test_a_write_of_a_hook(self, what: str, phase: str) -> None:
        hook = cp.before(cp.Event.UPDATE, reads="loss") if phase == "before" else cp.after(cp.Event.STEP, reads="loss")

        class Writes(cp.Algorithm[None], name="writes"):
            @hook
            def act(self, state: None, scope: cp.Scope) -> None:
                if scope.step == 1:
                    write()

        model = Net()
        plan = plan_for([Writes()], contract="always")
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))

        def write() -> None:
            last = [*model.parameters()][-1]
            assert last.grad is not None
            assert model.norm.running_var is not None
            {"gradients": last.grad, "buffers": model.norm.running_var, "parameters": last.data}[what].add_(1)

        def closure() -> Tensor:
            loss = model(images(3)).sum()
            loss.backward()
            return loss.detach()

        named = "gradients" if what == "gradients" else "parameters"
        for step in range(2):
            with ExitStack() as expected:
                if step == 1:
                    expected.enter_context(pytest.raises(cp.ContractError, match=f"writes.act writes {named} and does"))
                with engine.batch(images(3), targets(3)):
                    engine.step(closure)

    @pytest.mark.parametrize("what", ["buffers", "parameters"])
    def test_what_is_not_restored(self, what: str) -> None:
        class Leaves(cp.Algorithm[None], name="leaves"):
            @cp.around(cp.Event.EVALUATION, writes="parameters", restores="parameters")
            def act(self, state: None, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
                yield
                assert isinstance(scope.model, Net)
                assert scope.model.norm.running_mean is not None
                {"buffers": scope.model.norm.running_mean, "parameters": scope.model.head.bias.data}[what].add_(1)

        engine = cp.Engine(plan_for([Leaves()], contract="always"), model=Net())
        with pytest.raises(cp.ContractError, match="restores the parameters, and left others"), engine.evaluation():
            pass

    def test_unequal_numbers_of_inputs_and_targets(self) -> None:
        class Drops(cp.Algorithm[None], name="drops"):
            @cp.transform(
                inputs=cp.Edit(cp.IMAGES, acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
                targets=cp.Edit(frozenset({cp.INDEX}), acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
            )
            def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
                return batch.with_inputs(batch.inputs[:4]).with_targets(batch.targets[:3])

        with pytest.raises(cp.ContractError, match="leaves 4 inputs and 3 targets"):
            check([Drops()])(torch.rand(6, 1, 4, 4), torch.arange(6) % 4, step=0)


@pytest.mark.parametrize("sizes", [(6,), (1, 5), (3, 1, 2)], ids=str)
def test_the_loss_of_a_step_is_that_of_all_microbatches(sizes: tuple[int, ...]) -> None:
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    plan, model = plan_for([], loss=loss), nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES))
    x, y = images(6), torch.tensor([0, 1, -100, 3, 2, 1])
    wanted = loss(model(x), y)
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    with engine.batch(x, y) as batch:
        pairs = zip(batch.inputs.split(list(sizes)), batch.targets.split(list(sizes)), strict=True)
        parts = [Part(lambda given=given: model(given), of) for given, of in pairs]
        passes = Passes(engine, parts)
        assert engine.step(passes).item() == pytest.approx(wanted.item(), abs=1e-6)
    torch.testing.assert_close(passes.outputs, model(x).detach())
