"""What changes the parameters: through a gradient scaler, by an optimizer with a closure, and on sparse gradients."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from tests.algorithms.batches import images, plan_for, targets
from tests.algorithms.training import Net, train

ROOT = Path(__file__).parents[2]


def scaler_of(scale: float = 1024.0, **settings: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, **settings)


def optimizer_of(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def trained(*methods: Any, scaler: torch.amp.GradScaler | None, steps: int = 3) -> list[Tensor]:
    """Return the parameters after some steps, with a closure that scales the loss where there is a scaler."""
    model = Net().double()
    engine = cp.Engine(plan_for(methods), model=model, optimizer=optimizer_of(model), scaler=scaler)
    for step in range(steps):
        with engine.batch(images(4 + step, torch.float64), targets(4 + step)) as batch:

            def closure(batch: cp.Batch = batch) -> Tensor:
                loss = engine.plan.loss(model(batch.inputs), batch.targets)
                (loss if scaler is None else scaler.scale(loss)).backward()
                return loss.detach()

            engine.step(closure)
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.kind("13")
class TestScaler:
    @pytest.mark.parametrize("scale", [2.0, 65536.0])
    @pytest.mark.parametrize(
        "methods",
        [
            [],
            ["ema"],
            [{"name": "gradient_clipping", "threshold": 0.01}],
            [{"name": "gradient_clipping", "by": "value", "threshold": 0.001}, "mixup"],
        ],
        ids=str,
    )
    def test_a_scale_changes_nothing(self, methods: list[Any], scale: float) -> None:
        for scaled, plain in zip(
            trained(*methods, scaler=scaler_of(scale)), trained(*methods, scaler=None), strict=True
        ):
            torch.testing.assert_close(scaled, plain, rtol=1e-12, atol=1e-14)

    def test_a_move_is_as_long_as_the_clipped_gradient(self) -> None:
        model = nn.Linear(1, 1, bias=False)
        plan = plan_for([{"name": "gradient_clipping", "threshold": 0.1}])
        scaler = scaler_of()
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), scaler=scaler)
        before = model.weight.item()
        with engine.batch(images(2), targets(2)):

            def closure() -> Tensor:
                loss = model(torch.full((1, 1), 7.0)).sum()
                scaler.scale(loss).backward()
                return loss.detach()

            engine.step(closure)
        assert before - model.weight.item() == pytest.approx(0.01, abs=1e-6)

    def test_infinite_gradients_leave_the_step_out_and_lower_the_scale(self) -> None:
        model, scaler = nn.Linear(1, 1, bias=False), scaler_of(1024.0, backoff_factor=0.25)
        engine = cp.Engine(plan_for(["gradient_clipping"]), model=model, optimizer=optimizer_of(model), scaler=scaler)
        before = model.weight.item()
        for value, scale in ((torch.inf, 256.0), (1.0, 256.0)):
            assert model.weight.item() == before
            with engine.batch(images(2), targets(2)):

                def closure(value: float = value) -> Tensor:
                    loss = (model.weight * value).sum()
                    scaler.scale(loss).backward()
                    return loss.detach()

                engine.step(closure)
            assert scaler.get_scale() == scale
        assert model.weight.item() == pytest.approx(before - 0.1, abs=1e-6)

    @staticmethod
    def stepped(methods: list[Any], scaler: torch.amp.GradScaler, *, unscales: bool = False, **given: Any) -> float:
        model = nn.Linear(1, 1, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if given.pop("own_update", False):
            given["update"] = lambda: (scaler.step(optimizer), scaler.update())
        engine = cp.Engine(plan_for(methods), model=model, optimizer=optimizer, **given)
        before = model.weight.item()

        def closure() -> Tensor:
            scaler.scale((7 * model.weight).sum()).backward()
            return torch.zeros(())

        def unscaling() -> Tensor:
            loss = closure()
            scaler.unscale_(optimizer)
            return loss

        with engine.batch(images(2), targets(2)):
            engine.step(unscaling if unscales else closure)
        return before - model.weight.item()

    def test_a_scaler_that_the_engine_does_not_know_is_refused_by_name(self) -> None:
        with pytest.raises(
            cp.RunError, match=r"'scaler', so the optimizer would use scaled .* Engine\(..., scaler=scaler"
        ):
            self.stepped([], scaler_of())
        for own in (False, True):
            with pytest.raises(cp.RunError, match=r"gradient_clipping would see scaled gradients: .*scaler=scaler\)"):
                self.stepped(["gradient_clipping"], scaler_of(), own_update=own)
        with pytest.raises(cp.RunError, match="sam would see scaled"):
            self.stepped(["sam"], scaler_of())

    def test_an_update_that_steps_through_it_is_taken_where_no_method_sees_gradients(self) -> None:
        assert self.stepped(["ema"], scaler_of(), own_update=True) == pytest.approx(0.7)
        assert self.stepped([], scaler_of(enabled=False)) == pytest.approx(0.7)
        clipping = [{"name": "gradient_clipping", "threshold": 0.1}]
        assert self.stepped(clipping, scaler_of(), unscales=True, own_update=True) == pytest.approx(0.01, abs=1e-6)

    def test_a_method_that_runs_the_closure_again_is_refused(self) -> None:
        with pytest.raises(cp.RunError, match="sam runs the closure more than once"):
            trained("sam", scaler=scaler_of())

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_the_example(self) -> None:
        path = ROOT / "examples" / "scaled_loop.py"
        done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, check=True)
        assert float(done.stdout.rsplit(" ", 1)[1]) > 0.9


@pytest.mark.kind("10")
class TestOptimizersWithAClosure:
    def test_it_trains_as_in_a_loop_without_an_engine(self) -> None:
        found = []
        for with_engine in (False, True):
            model = Net(norm=False).double()
            optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=3)
            engine = cp.Engine(plan_for(["ema"]), model=model, optimizer=optimizer)
            x, y = images(6, torch.float64), targets(6)

            def closure() -> Tensor:
                if not with_engine:  # noqa: B023
                    optimizer.zero_grad()  # noqa: B023
                loss = nn.functional.cross_entropy(model(x), y)  # noqa: B023
                loss.backward()
                return loss.detach()

            for _ in range(3):
                if with_engine:
                    with engine.batch(x, y):
                        engine.step(closure)
                else:
                    optimizer.step(lambda: float(closure()))
            found.append([parameter.detach() for parameter in model.parameters()])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("method", ["gradient_clipping", "sam"])
    def test_a_method_on_gradients_is_refused_by_name(self, method: str) -> None:
        model = Net()
        engine = cp.Engine(plan_for([method]), model=model, optimizer=torch.optim.LBFGS(model.parameters()))
        with pytest.raises(cp.RunError, match=f"LBFGS makes passes of its own .* {method} would not see"):
            train(engine, 1)

    def test_a_scaler_is_refused(self) -> None:
        model, scaler = nn.Linear(1, 1), scaler_of()
        engine = cp.Engine(plan_for([]), model=model, optimizer=torch.optim.LBFGS(model.parameters()), scaler=scaler)

        def closure() -> Tensor:
            scaler.scale(model.weight.sum()).backward()
            return torch.zeros(())

        with pytest.raises(cp.RunError, match="leave the scaler out"), engine.batch(images(2), targets(2)):
            engine.step(closure)


@pytest.mark.kind("13")
def test_a_closure_that_does_not_scale_or_that_unscales_too_is_refused() -> None:
    for unscales in (False, True):
        model, scaler = nn.Linear(1, 1), scaler_of()
        optimizer = optimizer_of(model)
        engine = cp.Engine(plan_for([]), model=model, optimizer=optimizer, scaler=scaler)

        def closure(
            unscales: bool = unscales,
            model: nn.Module = model,
            scaler: torch.amp.GradScaler = scaler,
            optimizer: torch.optim.SGD = optimizer,
        ) -> Tensor:
            loss = model(torch.ones(1, 1)).sum()
            (scaler.scale(loss) if unscales else loss).backward()
            if unscales:
                scaler.unscale_(optimizer)
            return loss.detach()

        with (
            pytest.raises(cp.RunError, match=r"cannot unscale .* leaves unscale_"),
            engine.batch(images(2), targets(2)),
        ):
            engine.step(closure)


class Words(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.words, self.head = nn.Embedding(5, 3, sparse=sparse), nn.Linear(9, 4)
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(tokens).flatten(1))
        return out


@pytest.mark.slow
@pytest.mark.kind("10")
@pytest.mark.parametrize("contract", ["off", "always"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "gradient_clipping", "threshold": 0.05},
        {"name": "gradient_clipping", "threshold": 50.0},
        {"name": "gradient_clipping", "by": "value", "threshold": 0.02},
        {"name": "sam", "rho": 0.5},
        {"name": "sam", "rho": 0.5, "adaptive": True},
        {"name": "ema"},
    ],
    ids=str,
)
def test_sparse_gradients_train_as_dense_ones(method: dict[str, Any], contract: str) -> None:
    found = []
    tokens = torch.tensor([[0, 1, 1], [3, 3, 3], [4, 0, 1]])
    for sparse in (False, True):
        model = Words(sparse=sparse)
        plan = plan_for([method], inputs="tokens", contract=contract)
        engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(3):
            with engine.batch(tokens.roll(step, 1), torch.tensor([0, 3, 1])) as batch:

                def closure(batch: cp.Batch = batch, run: Callable[[Tensor], Tensor] = model) -> Tensor:
                    loss = plan.loss(run(batch.inputs), batch.targets)  # noqa: B023
                    loss.backward()
                    return loss.detach()

                engine.step(closure)
        assert model.words.weight.grad is not None
        assert model.words.weight.grad.is_sparse == sparse
        found.append([parameter.detach() for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.kind("30")
def test_the_variables_of_a_closure_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, look = [], inspect.getclosurevars

    def counted(function: Any) -> inspect.ClosureVars:
        looked.append(function)
        return look(function)

    monkeypatch.setattr(inspect, "getclosurevars", counted)
    train(cp.Engine(plan_for(["ema"]), model=(model := Net()), optimizer=optimizer_of(model)), 3)
    assert len(looked) == 1
