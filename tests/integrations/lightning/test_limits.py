"""What Lightning's loop cannot do for a plan is refused before it trains; what cannot be seen before, when it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

import counterpoint as cp
from counterpoint import RunError
from counterpoint.integrations.lightning import CounterpointCallback
from tests.integrations import recipe
from tests.integrations.lit import QUIET, Module, compose, loader, make_trainer

pytestmark = QUIET


class Around(cp.Algorithm[None], name="around"):
    """Acts around each step."""

    @cp.around(cp.Event.STEP, reads="optimizer")
    def go(self, state: None, scope: cp.Scope) -> Iterator[None]:
        yield


class AtLoss(cp.Algorithm[None], name="at_loss"):
    """Acts before each loss."""

    @cp.before(cp.Event.LOSS, reads="optimizer")
    def go(self, state: None, scope: cp.Scope) -> None:
        pass


class Loads(Module):
    def training_step(self, dataloader_iter: Any) -> Tensor:
        raise NotImplementedError


class Headless(Module):
    forward = pl.LightningModule.forward


class Two(Module):
    def __init__(self) -> None:
        super().__init__(manual_parts=1)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.net[1], self.net[3])]


def manual() -> Module:
    return Module(manual_parts=1)


class Case(NamedTuple):
    """A plan and a run that do not go together, and parts of the message and of the fix."""

    methods: list[Any]
    message: str
    fix: str
    make: Callable[[], Module] = Module
    criterion: str | None = "criterion"
    settings: Mapping[str, Any] = MappingProxyType({})


CASES = {
    "several-optimizers": Case(["ema"], "returned 2 optimizers", "with several param_groups", Two),
    "manual-sam": Case(
        ["sam"], "sam runs the passes of a step, and in manual", "automatic_optimization = True", manual
    ),
    "manual-around": Case([Around()], "around runs the passes of a step, and in manual", "leave around out", manual),
    "parts": Case(
        [Around()], "Lightning has made most", "of 2 times the size", settings={"accumulate_grad_batches": 2}
    ),
    "scaled": Case(["gradient_clipping"], "'16-mixed' scales", "'bf16-mixed'", settings={"plugins": "16-mixed"}),
    "scaled-sam": Case(["sam"], "sam uses gradients, which", "'bf16-mixed'", settings={"plugins": "16-mixed"}),
    "twice": Case(["gradient_clipping"], "does gradient_clip_val=1", "in one place", settings={"gradient_clip_val": 1}),
    "sharded": Case(["ema"], "which ModelParallelStrategy may", "strategy='ddp'", settings={"strategy": "sharded"}),
    "dense": Case(["mixup"], "dense_targets changes the kind of the targets", "criterion='criterion'", criterion=None),
    "at-loss": Case([AtLoss()], "at_loss acts at the loss", "criterion='criterion'", criterion=None),
    "misnamed": Case(["mixup"], "criterion='loss' names no module of Module", "self.criterion =", criterion="loss"),
    "loader": Case(["mixup"], "training_step takes dataloader_iter", "training_step(self, batch, batch_idx)", Loads),
    "no-forward": Case(["selective_backprop"], "the LightningModule has no forward", "write forward", Headless),
}


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_the_loop_cannot_do_is_refused_before_it_trains(case: Case) -> None:
    made = {"16-mixed": [MixedPrecision("16-mixed", "cpu")], "sharded": ModelParallelStrategy()}
    settings = {name: made.get(value, value) for name, value in case.settings.items()}
    fault = refused(compose(*case.methods), case.make(), case.criterion, **settings)
    assert case.message in fault.message
    assert case.fix in fault.fix


def refused(plan: cp.Plan, module: Module, criterion: str | None, **settings: Any) -> cp.Fault:
    """Return the one fault for which a fit is refused, and check that nothing has been trained."""
    trainer = make_trainer(CounterpointCallback(plan, criterion=criterion), **settings)
    with pytest.raises(cp.CompositionError) as caught:
        trainer.fit(module, loader())
    (fault,) = caught.value.faults
    assert fault.code == "loop-limit"
    assert trainer.global_step == 0
    assert not {"training_step", "setup"} & vars(module).keys()
    return fault


def test_steps_that_change_the_kind_of_inputs_are_refused() -> None:
    plan = compose({"name": "normalize", "mean": [0.5], "std": [0.5]}, inputs="unit")
    fault = refused(plan, Module(), "criterion")
    assert "normalize changes the kind of the inputs" in fault.message
    assert "inputs=..." in fault.fix


def test_every_fault_is_found_at_once() -> None:
    callback = CounterpointCallback(compose("sam", "gradient_clipping", "mixup"))
    with pytest.raises(cp.CompositionError) as caught:
        make_trainer(callback, plugins=[MixedPrecision("16-mixed", "cpu")]).fit(manual(), loader())
    assert [fault.algorithms for fault in caught.value.faults] == [
        ("dense_targets",),
        ("sam",),
        ("sam", "gradient_clipping"),
    ]


def test_a_plan_for_a_run_of_another_length_is_refused() -> None:
    facts = {"steps_per_epoch": 10, "max_duration": "2ep"}
    trainer = make_trainer(CounterpointCallback(compose("swa", **facts), criterion="criterion"), max_epochs=3)
    with pytest.raises(cp.CompositionError) as caught:
        trainer.fit(Module(), loader())
    fixes = [fault.fix for fault in caught.value.faults]
    assert fixes == ["give compose steps_per_epoch=20", "give compose max_duration='3ep'"]
    assert trainer.global_step == 0
    right = compose("swa", steps_per_epoch=20, max_duration="1ep")
    for settings in ({}, {"fast_dev_run": True}):
        make_trainer(CounterpointCallback(right, criterion="criterion"), **settings).fit(Module(), loader())


def test_accumulation_that_begins_later_stops_the_run() -> None:
    callback = CounterpointCallback(compose(Around()), criterion="criterion")
    with pytest.raises(RunError, match="around acts before the passes"):
        make_trainer(callback, GradientAccumulationScheduler({1: 2}), max_epochs=2).fit(Module(), loader())


def test_surgery_after_the_optimizer_is_refused() -> None:
    class Early(Module):
        def __init__(self) -> None:
            super().__init__()
            self.early = recipe.optimizer(self.net)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.early

    class Replaces(cp.Algorithm[None], name="replaces"):
        """Puts another layer in."""

        @cp.before(cp.Event.SETUP, writes="modules")
        def go(self, state: None, scope: cp.Scope) -> None:
            scope.model.get_submodule("net")[1] = nn.Linear(36, 16)

    plan = compose(Replaces())
    with pytest.raises(cp.CompositionError) as caught:
        make_trainer(CounterpointCallback(plan, criterion="criterion")).fit(Early(), loader())
    assert [fault.code for fault in caught.value.faults] == ["late-surgery"]
    make_trainer(CounterpointCallback(plan, criterion="criterion")).fit(Module(), loader())


class Ignores(Module):
    """Computes a loss of its own."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Steps(Module):
    """Makes a backward pass that Lightning does not see."""

    def __init__(self) -> None:
        super().__init__(manual_parts=1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.criterion(self(batch[0]), batch[1]).backward()
        self.optimizers().step()


class StepsAgain(Module):
    """Steps twice on one backward pass."""

    def __init__(self) -> None:
        super().__init__(manual_parts=1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.criterion(self(batch[0]), batch[1]))
        self.optimizers().step()
        self.optimizers().step()


class Twice(Module):
    """Computes the loss in two calls."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.criterion(self(batch[0]), batch[1]) + self.criterion(self(batch[0]), batch[1])


class Weighs(Module):
    """Gives the loss a third argument."""

    def __init__(self) -> None:
        super().__init__()
        self.criterion = Weighted()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.criterion(self(batch[0]), batch[1], 2)


class Weighted(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor, weight: float) -> Tensor:
        raise NotImplementedError


class Searches(Module):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(self.net.parameters())


@pytest.mark.parametrize(
    ("make", "method", "message"),
    [
        (Ignores, "mixup", r"without self.criterion, .*: write loss = self.criterion\(outputs, targets\)"),
        (Steps, "ema", r"write self.manual_backward\(loss\) before optimizer.step\(\)"),
        (StepsAgain, "ema", r"write self.manual_backward\(loss\) before optimizer.step\(\)"),
        (
            Twice,
            {"name": "manifold_mixup", "module": "net.1"},
            "criterion twice, and manifold_mixup acts on the forward",
        ),
        (Weighs, "mixup", "criterion was called with 3 arguments: call it with outputs and targets"),
        (Searches, "ema", "the optimizer computes the loss more than once in a step"),
    ],
    ids=["own-loss", "own-backward", "no-backward", "two-losses", "three-arguments", "lbfgs"],
)
def test_what_only_training_shows_stops_it_in_the_first_step(make: type[Module], method: Any, message: str) -> None:
    callback = CounterpointCallback(compose(method), criterion="criterion")
    trainer = make_trainer(callback)
    with pytest.raises(RunError, match=message):
        trainer.fit(make(), loader())
    assert callback.engine.batches == 0


def test_the_loss_may_be_called_twice_where_nothing_acts_on_the_forward_pass() -> None:
    callback = CounterpointCallback(compose("mixup"), criterion="criterion")
    make_trainer(callback).fit(Twice(), loader())
    assert callback.engine.batches == recipe.STEPS


def test_there_is_no_engine_before_the_trainer_is_set_up() -> None:
    with pytest.raises(RunError, match=r"call trainer.fit"):
        _ = CounterpointCallback(compose("mixup")).engine


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    monkeypatch.delitem(sys.modules, "counterpoint.integrations.lightning")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'counterpoint\[lightning\]'"):
        import_module("counterpoint.integrations.lightning")
