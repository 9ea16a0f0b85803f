"""Averages of weights: every dtype and value, shapes that change, wrapped models, and an evaluation that restores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import counterpoint as cp
from counterpoint.algorithms import EMA, SWA
from counterpoint.functional import moving_average
from tests.algorithms.batches import bits, images, plan_for, targets
from tests.algorithms.training import Net, engine_for, train

pytestmark = [pytest.mark.kind("1"), pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")]

FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn]
COMPLEX = [torch.complex64, torch.complex128]
COUNTING = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64]


class Holder(nn.Module):
    """A trained parameter, a frozen one, and a buffer, all of one value; other dtypes in a buffer alone."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        if value.dtype in FLOATING + COMPLEX:
            self.trained = nn.Parameter(value.clone())
            self.frozen = nn.Parameter(value.clone(), requires_grad=False)
        self.register_buffer("held", value.clone())
        self.anchor = nn.Parameter(torch.zeros(1))

    def put(self, value: Tensor) -> None:
        """Write a value into all of them."""
        with torch.no_grad():
            for name, tensor in [*self.named_parameters(), *self.named_buffers()]:
                if name != "anchor":
                    tensor.copy_(value)


def step(engine: cp.Engine) -> None:
    """Make a step that computes nothing."""
    with engine.batch(images(2), targets(2)):
        engine.step(lambda: torch.zeros(()))


def averaged(method: Any, values: list[Tensor]) -> dict[str, Tensor]:
    """Return what a model holds in an evaluation after it had these values in turn."""
    model = Holder(values[0])
    plan = plan_for([method], contract="off")
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    for value in values:
        model.put(value)
        step(engine)
    with engine.evaluation():
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        return {name: tensor.detach().clone() for name, tensor in held.items() if name != "anchor"}


def mean(average: float, value: float, decay: float) -> float:
    """Return the average of two numbers by its definition, in double precision."""
    if decay == 0:
        return value
    same = average == value or (math.isnan(average) and math.isnan(value))
    return average if same else decay * average + (1 - decay) * value


def naive(values: list[Tensor], decays: list[float]) -> list[float]:
    """Return the averages of the elements of float64 or complex128 values, number by number."""
    numbers = [torch.view_as_real(value).flatten() if value.is_complex() else value.flatten() for value in values]
    result = numbers[0].tolist()
    for value, decay in zip(numbers, decays, strict=True):
        result = [mean(one, other, decay) for one, other in zip(result, value.tolist(), strict=True)]
    return result


def drawn(dtype: torch.dtype) -> st.SearchStrategy[list[Tensor]]:
    """Draw a sequence of values of a dtype, all of one shape."""
    real = {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)
    width = 16 if real.itemsize < 4 else real.itemsize * 8
    numbers = st.floats(width=width) | st.sampled_from([0.0, -0.0, 1.0, -math.inf, math.inf, math.nan])
    if dtype.is_complex:
        numbers = st.builds(complex, numbers, numbers)
    size = st.integers(1, 4)
    rows = size.flatmap(lambda n: st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=1, max_size=5))
    return rows.map(
        lambda given: [
            torch.tensor(row, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype) for row in given
        ]
    )


METHODS = [
    (EMA(decay=0.5, warmup=False), lambda t: 0.5 if t else 0.0),
    (EMA(decay=0.9, warmup=True), lambda t: min(0.9, (1 + t) / (10 + t)) if t else 0.0),
    (EMA(decay=0.999, warmup=False), lambda t: 0.999 if t else 0.0),
    (SWA(start="0ba"), lambda t: t / (t + 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATING + COMPLEX, ids=str)
@given(data=st.data(), which=st.sampled_from(range(len(METHODS))))
@settings(max_examples=40, deadline=None)
def test_any_sequence_of_values_against_the_definition(dtype: torch.dtype, data: Any, which: int) -> None:
    method, decay = METHODS[which]
    values = data.draw(drawn(dtype))
    exact = [value.to(torch.complex128 if dtype.is_complex else torch.float64) for value in values]
    wanted = torch.tensor(naive(exact, [decay(t) for t in range(len(values))]), dtype=torch.float64)
    largest = torch.stack([torch.view_as_real(v).flatten() if v.is_complex() else v for v in exact]).abs()
    largest = torch.where(largest.isfinite(), largest, 0).amax(0)
    for name, found in averaged(method, values).items():
        assert found.dtype == dtype
        got = (torch.view_as_real(found).flatten() if dtype.is_complex else found).double()
        rounded = wanted if dtype in (torch.float64, *COMPLEX) else wanted.to(dtype).double()
        eps = torch.finfo(dtype).eps
        close = (got - rounded).abs() <= 8 * eps * largest + torch.finfo(dtype).tiny
        assert ((got == rounded) | (got.isnan() & rounded.isnan()) | close).all(), (name, got, rounded)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATING + COMPLEX + COUNTING, ids=str)
@given(data=st.data(), which=st.sampled_from(range(len(METHODS))), count=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_what_does_not_change_keeps_its_bits(dtype: torch.dtype, data: Any, which: int, count: int) -> None:
    if dtype in COUNTING:
        value = torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=4))).to(dtype)
    else:
        value = data.draw(drawn(dtype))[0]
        if dtype.itemsize < 4:  # a cast to float32 and back turns every NaN into the same
            value = value.float().nan_to_num(7.0, math.inf, -math.inf).to(dtype)
    for found in averaged(METHODS[which][0], [value] * count).values():
        assert bits(found) == bits(value)


@pytest.mark.parametrize("dtype", COUNTING, ids=str)
@pytest.mark.parametrize("method", [method for method, _ in METHODS], ids=str)
def test_integers_and_booleans_follow_the_model(dtype: torch.dtype, method: Any) -> None:
    values = [torch.tensor(row).to(dtype) for row in ([0, 1, 1], [1, 0, 1], [1, 1, 0])]
    (found,) = averaged(method, values).values()
    assert torch.equal(found, values[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_one_two_three_by_hand(dtype: torch.dtype) -> None:
    values = [torch.tensor([x], dtype=dtype) for x in (1.0, 2.0, 3.0)]
    for method, wanted in ((EMA(decay=0.5, warmup=False), 2.25), (SWA(start="0ba"), 2.0)):
        assert [found.item() for found in averaged(method, values).values()] == [pytest.approx(wanted)] * 3


def test_an_average_of_values_too_far_apart_for_their_difference() -> None:
    largest = torch.finfo(torch.float32).max
    values = [torch.tensor([largest, 1.0]), torch.tensor([-largest, 2.0])]
    for found in averaged(EMA(decay=0.75, warmup=False), values).values():
        assert found.tolist() == [pytest.approx(largest / 2), 1.25]


@pytest.mark.parametrize("form", ["channels_last", "expanded", "transposed", "conjugated", "empty", "scalar"])
def test_memory_of_any_form(form: str) -> None:
    start = torch.arange(24.0).view(2, 3, 2, 2)
    value = {
        "channels_last": start.contiguous(memory_format=torch.channels_last),
        "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 5),
        "transposed": start.view(4, 6).t(),
        "conjugated": torch.complex(start, start + 1).conj(),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
    }[form]
    model = nn.Module()
    model.register_buffer("held", value)
    model.anchor = nn.Parameter(torch.zeros(1))
    plan = plan_for([EMA(decay=0.5, warmup=False)], contract="off")
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    before = value.clone()
    step(engine)
    assert isinstance(model.held, Tensor)
    model.held = value + 2
    step(engine)
    with engine.evaluation():
        assert torch.equal(model.held, before + 1)
    assert torch.equal(model.held, before + 2)
    model.held = value
    with engine.evaluation():
        assert torch.equal(model.held, before + 1)
    assert torch.equal(model.held, before)


@pytest.mark.slow
@given(st.lists(st.floats(width=32), min_size=1, max_size=3), st.floats(0, 1))
@example([-math.inf], 0.5)
@example([math.nan], 0.0)
def test_the_pure_function_leaves_what_is_equal(numbers: list[float], decay: float) -> None:
    average = torch.tensor(numbers)
    kept = average.clone()
    assert bits(moving_average(average, average.clone(), decay)) == bits(kept)
    out = torch.empty_like(average)
    assert moving_average(average, average.clone(), decay, out=out) is out
    assert bits(out) == bits(average) == bits(kept)


DAMAGE: dict[str, Callable[[Net], object]] = {
    "written": lambda model: [tensor.data.zero_() for tensor in model.state_dict().values()],
    "batch norm in train mode": lambda model: model.train()(images(4)),
    "replaced buffer": lambda model: setattr(model.norm, "running_mean", torch.ones(4)),
    "buffer of another shape": lambda model: setattr(model.norm, "running_var", torch.ones(7)),
    "no buffer": lambda model: setattr(model.norm, "running_var", None),
    "deleted buffer": lambda model: delattr(model.norm, "running_var"),
    "new buffer": lambda model: model.head.register_buffer("cache", torch.ones(2)),
    "resized in place": lambda model: model.norm.running_mean.resize_(2).zero_(),
    "data replaced": lambda model: setattr(model.conv.weight, "data", torch.zeros(1)),
    "replaced parameter": lambda model: setattr(model.head, "bias", nn.Parameter(torch.zeros(4))),
}


class TestEvaluationRestores:
    """Every tensor is put back, whatever the evaluation did to it and however it ended."""

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [None, KeyboardInterrupt, GeneratorExit], ids=str)
    @pytest.mark.parametrize("updates", [0, 1, 2])
    @pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
    def test_it(self, damage: Callable[[Net], object], updates: int, error: type[BaseException] | None) -> None:
        model = Net()
        engine = engine_for(model, EMA(decay=0.9, warmup=False), contract="off")
        train(engine, updates)
        held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        before = {name: bits(tensor) for name, tensor in model.state_dict().items()}
        places = {name: tensor.data_ptr() for name, tensor in held.items()}

        def evaluate() -> None:
            with engine.evaluation():
                with torch.no_grad():
                    damage(model)
                if error is not None:
                    raise error

        if error is None:
            evaluate()
        else:
            with pytest.raises(error):
                evaluate()
        assert {name: bits(tensor) for name, tensor in model.state_dict().items()} == before
        after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        assert list(after) == list(held)
        assert all(after[name] is held[name] for name in held)
        assert {name: tensor.data_ptr() for name, tensor in after.items()} == places
        train(engine, 1)

    def test_batch_norm_before_the_first_update(self) -> None:
        model = nn.BatchNorm1d(1)
        engine = cp.Engine(plan_for([EMA()]), model=model)
        with engine.evaluation():
            model(torch.full((4, 1), 5.0))
            assert model.running_mean is not None
            assert model.running_mean.item() == pytest.approx(0.5)
        assert model.running_mean.item() == 0.0

    def test_an_engine_that_first_evaluates_in_inference_mode_trains_after(self) -> None:
        model = Net()
        engine = engine_for(model, EMA(decay=0.9, warmup=False))
        with torch.inference_mode(), engine.evaluation():
            model(images(2))
        train(engine, 2)
        with torch.inference_mode(), engine.evaluation():
            model(images(2))
        train(engine, 1)

    def test_evaluations_one_in_the_other(self) -> None:
        model = Net()
        engine = engine_for(model, EMA(decay=0.9, warmup=False))
        train(engine, 2)
        before = bits(model.head.weight)
        with engine.evaluation():
            average = bits(model.head.weight)
            with engine.evaluation():
                assert bits(model.head.weight) == average
            assert bits(model.head.weight) == average
        assert bits(model.head.weight) == before != average


class Growing(nn.Module):
    """A layer with a buffer that may be replaced by one of another shape."""

    def __init__(self, cache: Tensor | None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.register_buffer("cache", cache)


class TestShapesThatChange:
    @pytest.mark.parametrize("method", [method for method, _ in METHODS], ids=str)
    @pytest.mark.parametrize(
        "after",
        [torch.ones(5), torch.ones(2, 2), torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.int64), None],
        ids=["longer", "more axes", "complex", "integers", "gone"],
    )
    def test_a_buffer_is_followed(self, method: Any, after: Tensor | None) -> None:
        for first, then in ((torch.zeros(3), after), (after, torch.zeros(3))):
            model = Growing(None if first is None else first.clone())
            engine = engine_for(model, method, contract="off")
            step(engine)
            step(engine)
            model.cache = None if then is None else then.clone()
            with engine.evaluation():  # before an update has seen it
                assert model.cache is None if then is None else torch.equal(model.cache, then)
            step(engine)
            with engine.evaluation():
                assert model.cache is None if then is None else torch.equal(model.cache, then)
            step(engine)

    def test_a_model_that_changes_its_dtype_keeps_its_average(self) -> None:
        model = Growing(torch.tensor([1.0]))
        engine = engine_for(model, EMA(decay=0.75, warmup=False), contract="off")
        step(engine)
        model.double()
        model.cache = torch.tensor([2 + 1e-12], dtype=torch.float64)
        step(engine)
        with engine.evaluation():
            assert isinstance(model.cache, Tensor)
            assert model.cache.item() == pytest.approx(1.25 + 0.25e-12, abs=1e-15)

    def test_a_parameter_starts_anew(self) -> None:
        model = Growing(torch.zeros(1))
        engine = engine_for(model, EMA(decay=0.5, warmup=False), contract="off")
        step(engine)
        model.layer = nn.Linear(2, 3)
        step(engine)
        wanted = model.layer.weight.detach() + 1
        with torch.no_grad():
            model.layer.weight.add_(2)
        step(engine)
        with engine.evaluation():
            torch.testing.assert_close(model.layer.weight, wanted)

    @pytest.mark.slow
    @pytest.mark.kind("10")
    @pytest.mark.parametrize("contract", ["off", "always"])
    @pytest.mark.parametrize("method", ["ema", {"name": "swa", "start": "0ba"}, "sam", "gradient_clipping"], ids=str)
    def test_lazy_layers(self, method: Any, contract: str) -> None:
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.LazyBatchNorm1d())
        engine = engine_for(model, method, contract=contract)
        with engine.evaluation():
            pass
        train(engine, 3)
        with engine.evaluation():
            model(images(3))
        other = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.LazyBatchNorm1d())
        resumed = engine_for(other, method, contract=contract)
        if any(".weights." in name for name in engine.state_dict()):
            with pytest.raises(cp.CheckpointError, match="load the weights of the model before"):
                resumed.load_state_dict(engine.state_dict())
        other.load_state_dict(model.state_dict())
        resumed.load_state_dict(engine.state_dict())
        assert {name: bits(value) for name, value in resumed.state_dict().items()} == {
            name: bits(value) for name, value in engine.state_dict().items()
        }

    @pytest.mark.slow
    def test_a_state_of_a_buffer_that_grew_is_loaded_after_the_model(self) -> None:
        model, other = Growing(torch.zeros(1)), Growing(torch.zeros(1))
        engine, resumed = engine_for(model, EMA(), contract="off"), engine_for(other, EMA(), contract="off")
        step(engine)
        step(resumed)
        model.cache = torch.tensor([1.0, 2.0])
        step(engine)
        with pytest.raises(cp.CheckpointError, match=r"ema.weights.cache has shape \(2,\), and needs \(1,\); load"):
            resumed.load_state_dict(engine.state_dict())
        other.cache = torch.zeros(2)
        resumed.load_state_dict(engine.state_dict())
        with resumed.evaluation():
            assert other.cache.tolist() == [1.0, 2.0]
        step(resumed)
        assert int(resumed.state_dict()["ema.updates"]) == 3


class Wrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *given: Any) -> Any:
        return self.module(*given)


def inner_compiled(model: Net) -> nn.Module:
    model.conv, model.norm = torch.compile(model.conv), torch.compile(model.norm)  # type: ignore[assignment]
    return model


def inner_checkpointed(model: Net) -> nn.Module:
    model.head = checkpoint_wrapper(model.head)  # type: ignore[assignment]
    return model


WRAPPED: dict[str, Callable[[Net], nn.Module]] = {
    "plain": lambda model: model,
    "compiled": lambda model: torch.compile(model),
    "data parallel": lambda model: nn.DataParallel(model),
    "compiled data parallel": lambda model: torch.compile(nn.DataParallel(model)),
    "inner compiled": inner_compiled,
    "inner checkpointed": inner_checkpointed,
    "own wrapper": Wrapper,
}


class TestWrappedModels:
    @staticmethod
    def trained(seed: float) -> Net:
        model = Net()
        with torch.no_grad():
            for number, tensor in enumerate([*model.parameters(), *model.buffers()]):
                tensor.copy_(torch.full(tensor.shape, seed + number).to(tensor.dtype))
        return model

    @pytest.mark.slow
    @pytest.mark.parametrize(("one", "other"), list(itertools.product(WRAPPED, WRAPPED)))
    def test_a_state_goes_from_one_to_the_other(self, one: str, other: str) -> None:
        first, second = self.trained(0), self.trained(5)
        engine = engine_for(WRAPPED[one](first), EMA(decay=0.5, warmup=False), contract="off")
        step(engine)
        resumed = engine_for(WRAPPED[other](second), EMA(decay=0.5, warmup=False), contract="off")
        step(resumed)
        resumed.load_state_dict(engine.state_dict())
        plain = {name: bits(value) for name, value in self.trained(0).named_parameters()}
        assert {"ema.weights." + name for name in plain} < engine.state_dict().keys() == resumed.state_dict().keys()
        with resumed.evaluation():
            found = [bits(value) for value in resumed.model.parameters()]
        assert found == list(plain.values())
        assert [bits(value) for value in resumed.model.parameters()] != found

    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "_fsdp_wrapped_module."])
    def test_names_with_a_wrapper_in_a_state_of_before(self, prefix: str) -> None:
        engine = engine_for(Net(), EMA(), contract="off")
        step(engine)
        state = engine.state_dict()
        old = {name.replace("weights.", f"weights.{prefix}"): value for name, value in state.items()}
        assert old.keys() != state.keys()
        engine.load_state_dict(old)
        assert engine.state_dict().keys() == state.keys()

    @pytest.mark.slow
    def test_a_model_that_is_wrapped_in_the_middle_goes_on(self) -> None:
        model = Net()
        engine = engine_for(model, EMA(decay=0.5, warmup=False), contract="off")
        step(engine)
        inner_compiled(model)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(1)
        before = [value.detach().clone() for value in model.parameters()]
        step(engine)
        with engine.evaluation():
            for value, trained in zip(model.parameters(), before, strict=True):
                torch.testing.assert_close(value.detach(), trained - 0.5)

    def test_modules_of_the_users_that_share_a_name_with_wrappers_stay_apart(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module, self.weight = nn.Linear(1, 1, bias=False), nn.Parameter(torch.tensor([[2.0]]))

        model = Two()
        engine = engine_for(model, EMA(decay=0.5, warmup=False), contract="off")
        step(engine)
        assert {"ema.weights.module.weight", "ema.weights.weight"} < engine.state_dict().keys()
        own = model.module.weight.item()
        engine.load_state_dict(engine.state_dict())
        with engine.evaluation():
            assert (model.module.weight.item(), model.weight.item()) == (own, 2.0)

    def test_of_another_model_it_is_refused(self) -> None:
        engine = engine_for(Wrapper(nn.Linear(2, 2)), EMA(), contract="off")
        other = engine_for(Net(), EMA(), contract="off")
        with pytest.raises(cp.CheckpointError, match=r"missing \['ema.weights.bias', 'ema.weights.weight'\]"):
            engine.load_state_dict(other.state_dict())
