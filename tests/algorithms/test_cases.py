"""Every registered method against its case: a registered method without one fails here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core import Algorithm
from counterpoint.plugins import ALGORITHMS
from tests.algorithms.batches import SHAPE, bits, dense, images, plan_for, run, targets
from tests.algorithms.cases import CASES, Array, Case, EditCase, OwnCase, StepCase, WeightsCase, without_a_case

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SEGMENTATION_AND_MULTICLASS = ("multiclass", "segmentation")


def shipped() -> list[str]:
    return [entry.name for entry in ALGORITHMS.entries() if entry.package == "counterpoint"]


def params(kind: type[Case]) -> list[Any]:
    return [
        pytest.param(case, id=f"{name}-{number}")
        for name, cases in CASES.items()
        for number, case in enumerate(cases)
        if isinstance(case, kind)
    ]


edit_cases = pytest.mark.parametrize("case", params(EditCase))
sometimes_cases = pytest.mark.parametrize("case", [one for one in params(EditCase) if not one.values[0].gives])
always_cases = pytest.mark.parametrize("case", [one for one in params(EditCase) if one.values[0].gives])
weights_cases = pytest.mark.parametrize("case", params(WeightsCase))
step_cases = pytest.mark.parametrize("case", params(StepCase))
every_case = pytest.mark.parametrize(
    "case", [*params(EditCase), *params(WeightsCase), *params(StepCase), *params(OwnCase)]
)


def changed(algorithm: Algorithm[Any], **settings: Any) -> Algorithm[Any]:
    """Return the algorithm with other settings, validated as a user's would be."""
    given = {name: getattr(algorithm, name) for name in algorithm.model_fields_set}
    return type(algorithm)(**{**given, **settings})


def own_draws(draws: dict[str, Any], identity: str) -> dict[str, Any]:
    return {**draws, "": draws[identity]}


class TestEveryRegisteredMethodHasItsCase:
    def test_none_is_without(self) -> None:
        assert set(shipped()) >= {"mixup", "cutmix", "cutout", "label_smoothing", "ema", "one_of"}
        assert without_a_case(shipped()) == set()

    def test_one_without_is_found(self, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        info = tmp_path / "counterpoint-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counterpoint\nVersion: 9.9\n")
        (info / "entry_points.txt").write_text("[counterpoint.algorithms]\nmixup = a:B\nnew_method = a:C\n")
        monkeypatch.syspath_prepend(tmp_path)
        assert without_a_case(shipped()) == {"new_method"}

    def test_a_name_with_no_cases_in_it_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(CASES, "mixup", ())
        assert without_a_case(shipped()) == {"mixup"}

    @pytest.mark.parametrize("name", CASES)
    def test_the_cases_are_of_the_registered_class(self, name: str) -> None:
        assert {type(case.algorithm) for case in CASES[name]} == {ALGORITHMS.load(name)}


@every_case
class TestTasks:
    def test_it_is_refused_for_the_tasks_it_has_no_meaning_for_and_no_others(self, case: Case) -> None:
        stated = {"inputs": case.inputs[0]} if isinstance(case, EditCase) else {}
        for task in ("multiclass", "segmentation", "multilabel", "regression"):
            if task in case.tasks:
                assert plan_for([case.algorithm], task, **stated).order[-1] == case.algorithm.identity
            else:
                with pytest.raises(cp.CompositionError) as caught:
                    plan_for([case.algorithm], task, **stated)
                assert "task-unsupported" in [fault.code for fault in caught.value.faults]


@edit_cases
class TestEditsAgainstTheReference:
    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_what_the_data_holds(self, case: EditCase, dtype: torch.dtype, size: int) -> None:
        for task in case.tasks:
            for step in (0, 1, 5):
                self.compare(case, images(size, dtype, case.inputs[0]), targets(size, task), task, case.inputs[0], step)

    def test_every_kind_of_inputs(self, case: EditCase) -> None:
        for kind in case.inputs:
            self.compare(case, images(5, kind=kind), targets(5), "multiclass", kind, step=3)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dense_targets_of_any_dtype(self, case: EditCase, dtype: torch.dtype) -> None:
        for task in set(case.tasks) & set(SEGMENTATION_AND_MULTICLASS):
            given = dense_exactly(task, dtype)
            self.compare(case, images(5, kind=case.inputs[0]), given, task, case.inputs[0], step=2)

    def test_ignored_positions(self, case: EditCase) -> None:
        for task in set(case.tasks) & set(SEGMENTATION_AND_MULTICLASS):
            for given in (targets(5, task, ignored=True), targets(5, task, dense=True, ignored=True)):
                assert (dense(given).sum(1) == 0).any()
                self.compare(case, images(5, kind=case.inputs[0]), given, task, case.inputs[0], step=1)

    def compare(self, case: EditCase, x: Tensor, y: Tensor, task: str, kind: str, step: int) -> None:
        plan = plan_for([case.algorithm], task, inputs=kind)
        edited_x, edited_y, draws = run(plan, x, y, step)
        wanted_x, wanted_y = case.reference(x.double().numpy(), dense(y), own_draws(draws, plan.order[-1]), task)
        assert edited_x.dtype == (torch.float32 if case.gives and not x.is_floating_point() else x.dtype)
        error = 5 * torch.finfo(edited_x.dtype).eps if edited_x.is_floating_point() else 0
        np.testing.assert_allclose(edited_x.double().numpy(), wanted_x, rtol=0, atol=error)
        if not case.dense and not y.is_floating_point():
            assert edited_y is y
            return
        # What arrives dense and needs no other form keeps its dtype; what a plan makes dense is float32 at least.
        if case.dense and task in SEGMENTATION_AND_MULTICLASS:
            assert edited_y.dtype == (torch.float64 if y.dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(edited_y.double().numpy(), wanted_y, rtol=0, atol=1e-6)


def dense_exactly(task: str, dtype: torch.dtype) -> Tensor:
    """Return dense targets that even bfloat16 holds exactly: quarters, and one ignored row."""
    shape = (5, *SHAPE[1:], 4) if task == "segmentation" else (5, 4)
    rows = torch.zeros(shape, dtype=dtype)
    rows[:2, ..., 1] = 1
    rows[2:4] = torch.tensor([0.5, 0.25, 0.0, 0.25])
    return rows.movedim(-1, 1).contiguous()


@edit_cases
class TestTensorsOfTheUser:
    @pytest.mark.slow
    @pytest.mark.parametrize("dense_given", [False, True])
    def test_are_never_edited(self, case: EditCase, dense_given: bool) -> None:
        for task in case.tasks:
            x, y = images(5, kind=case.inputs[0]), targets(5, task, dense=dense_given)
            before = bits(x), bits(y)
            plan = plan_for([case.algorithm], task, inputs=case.inputs[0])
            for step in range(4):
                plan(x, y, step=step)
            assert (bits(x), bits(y)) == before

    @pytest.mark.slow
    def test_given_away_give_the_same_bits_and_targets_are_still_never_edited(self, case: EditCase) -> None:
        for task in case.tasks:
            plan = plan_for([case.algorithm], task, inputs=case.inputs[0])
            for dense_given in (False, True):
                x, y = images(5, kind=case.inputs[0]), targets(5, task, dense=dense_given)
                before = bits(y)
                for step in range(4):
                    kept, given = plan(x, y, step=step), plan(x.clone(), y, step=step, donate=True)
                    assert [bits(part) for part in kept] == [bits(part) for part in given]
                assert bits(y) == before

    def test_may_lie_in_memory_as_they_like(self, case: EditCase) -> None:
        plan = plan_for([case.algorithm], case.tasks[0], inputs=case.inputs[0])
        x, y = images(5, kind=case.inputs[0]), targets(5, case.tasks[0])
        plain = [bits(part) for part in plan(x, y, step=1)]
        last = x.contiguous(memory_format=torch.channels_last)
        strided = torch.stack([x, x], dim=-1)[..., 0]
        for other in (last, strided):
            assert [bits(part) for part in plan(other, y, step=1)] == plain
            assert [bits(part) for part in plan(other.clone(), y, step=1, donate=True)] == plain

    def test_that_require_gradients_pass(self, case: EditCase) -> None:
        plan = plan_for([case.algorithm], case.tasks[0], inputs=case.inputs[0])
        x, y = images(5, kind=case.inputs[0]), targets(5, case.tasks[0])
        plain = [bits(part) for part in plan(x, y, step=1)]
        leaf = x.clone().requires_grad_(x.is_floating_point())
        edited = plan(leaf, y, step=1)
        assert [bits(part) for part in edited] == plain
        assert bits(leaf) == bits(x)


class TestABatchOfOne:
    @pytest.mark.parametrize("case", [case for name in ("mixup", "cutmix") for case in CASES[name]])
    def test_mixes_with_itself_which_is_the_identity(self, case: EditCase) -> None:
        x, y = images(1), targets(1)
        for step in range(8):
            edited_x, edited_y = plan_for([case.algorithm])(x, y, step=step)
            torch.testing.assert_close(edited_x, x, rtol=0, atol=1e-6)
            np.testing.assert_allclose(edited_y.numpy(), dense(y), rtol=0, atol=1e-6)


def unedited(case: EditCase, y: Tensor) -> bytes:
    """Return the bits of targets that a plan with the case leaves where the case does not act."""
    return bits(torch.from_numpy(dense(y)).float() if case.dense else y)


@always_cases
class TestWhatMakesAnotherKind:
    def test_acts_on_every_batch(self, case: EditCase) -> None:
        for settings in ({"p": 0.5}, {"every": 2}, {"start": "1ba"}, {"end": "9ba"}):
            with pytest.raises(cp.CompositionError) as caught:
                plan_for([changed(case.algorithm, **settings)], inputs=case.inputs[0])
            assert [fault.code for fault in caught.value.faults] == ["conditional-kind"]

    def test_acts_on_a_batch_that_is_prepared_for_evaluation(self, case: EditCase) -> None:
        x, y = images(5, kind=case.inputs[0]), targets(5)
        plan = plan_for([case.algorithm], inputs=case.inputs[0])
        assert [bits(part) for part in plan.prepare(x, y)] == [bits(part) for part in plan(x, y, step=3)]


@sometimes_cases
class TestSchedules:
    """When a method acts, and that what is skipped leaves the kinds as they are."""

    def acted(self, case: EditCase, steps: range, **settings: Any) -> list[int]:
        algorithm = changed(case.algorithm, **settings)
        plan = plan_for([algorithm], inputs=case.inputs[0], steps_per_epoch=4, max_duration="5ep")
        x, y = images(5, kind=case.inputs[0]), targets(5)
        acted = []
        for step in steps:
            edited_x, edited_y, draws = run(plan, x, y, step)
            if algorithm.identity in draws:
                acted.append(step)
                wanted, _ = case.reference(x.double().numpy(), dense(y), own_draws(draws, algorithm.identity), "")
                np.testing.assert_allclose(edited_x.double().numpy(), wanted, rtol=0, atol=1e-6)
            else:
                assert (bits(edited_x), bits(edited_y)) == (bits(x), unedited(case, y))
        return acted

    def test_it_acts_on_every_batch_by_default(self, case: EditCase) -> None:
        assert self.acted(case, range(6)) == [0, 1, 2, 3, 4, 5]

    @pytest.mark.slow
    def test_start_and_end_exclusive(self, case: EditCase) -> None:
        assert self.acted(case, range(8), start="2ba", end="5ba") == [2, 3, 4]
        assert self.acted(case, range(20), start="1.5ep", end="0.5dur") == [6, 7, 8, 9]

    @pytest.mark.slow
    def test_every_nth_batch_from_start(self, case: EditCase) -> None:
        assert self.acted(case, range(12), every=3) == [0, 3, 6, 9]
        assert self.acted(case, range(12), start="2ba", every=4, end="10ba") == [2, 6]

    @pytest.mark.slow
    def test_p(self, case: EditCase) -> None:
        assert self.acted(case, range(12), p=1e-300) == []
        assert self.acted(case, range(6), p=1.0) == [0, 1, 2, 3, 4, 5]
        sometimes = self.acted(case, range(24), p=0.5)
        assert 4 <= len(sometimes) <= 20
        assert self.acted(case, range(24), p=0.5) == sometimes

    def test_skipped_it_still_leaves_what_another_step_needs(self, case: EditCase) -> None:
        other = "mixup" if case.algorithm.name == "label_smoothing" else "label_smoothing"
        plan = plan_for([changed(case.algorithm, p=1e-300), {"name": other, "end": "1ba"}], inputs=case.inputs[0])
        x, y = images(5, kind=case.inputs[0]), targets(5)
        _, later = plan(x, y, step=7)
        assert bits(later) == bits(torch.from_numpy(dense(y)).float())


@edit_cases
class TestNamesAndWishes:
    def test_an_id_names_it_and_keys_its_draws(self, case: EditCase) -> None:
        renamed = changed(case.algorithm, id="mine")
        plan = plan_for([renamed], inputs=case.inputs[0])
        assert plan.order[-1] == "mine"
        assert "mine" in run(plan, images(5, kind=case.inputs[0]), targets(5))[2]

    @pytest.mark.slow
    def test_wishes_are_granted(self, case: EditCase) -> None:
        partner = "cutout" if case.algorithm.name == "label_smoothing" else "label_smoothing"
        for wish, first, second in (("before", "mine", "partner"), ("after", "partner", "mine")):
            wishing = changed(case.algorithm, id="mine", **{wish: "partner"})
            for listed in (
                [wishing, {"name": partner, "id": "partner"}],
                [{"name": partner, "id": "partner"}, wishing],
            ):
                order = plan_for(listed, inputs=case.inputs[0]).order
                assert order.index(first) < order.index(second)

    def test_two_of_it_need_ids(self, case: EditCase) -> None:
        if case.gives:  # two would need other windows, which it cannot have
            with pytest.raises(cp.CompositionError, match="duplicate-id"):
                plan_for([case.algorithm, case.algorithm], inputs=case.inputs[0])
            return
        with pytest.raises(cp.CompositionError) as caught:
            plan_for([changed(case.algorithm, end="5ba"), changed(case.algorithm, start="5ba")], inputs=case.inputs[0])
        assert {fault.code for fault in caught.value.faults} == {"duplicate-id"}
        named = [changed(case.algorithm, end="5ba", id="one"), changed(case.algorithm, start="5ba", id="two")]
        assert set(plan_for(named, inputs=case.inputs[0]).order) - {"dense_targets"} == {"one", "two"}


class Classifier(nn.Module):
    """A small model with parameters, floating buffers and a counter."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(105, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        out: Tensor = self.body(x)
        return out


def values(model: nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Return every parameter and buffer as float64, counters as integers."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: (value.detach().double() if value.is_floating_point() else value.detach()).numpy().copy()
        for name, value in tensors.items()
    }


@weights_cases
class TestEvaluationWeightsAgainstTheReference:
    def evaluated(self, case: WeightsCase, dtype: torch.dtype, steps: int = 13, **settings: Any) -> None:
        algorithm = changed(case.algorithm, **settings)
        plan = plan_for([algorithm], steps_per_epoch=4, max_duration="5ep")
        torch.manual_seed(0)
        model = Classifier(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        engine = cp.Engine(plan, model=model, optimizer=optimizer)
        start, trained = values(model), []
        for step in range(steps):
            with engine.batch(images(5 + step, dtype), targets(5 + step)) as batch:
                x, y = batch.inputs, batch.targets

                def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                    loss = plan.loss(model(x), y)
                    loss.backward()
                    return loss.detach()

                engine.step(closure)
            if schedule_covers(algorithm, step):
                trained.append(values(model))
        own = values(model)
        wanted = case.reference(start, trained) if trained else own
        with engine.evaluation():
            for name, value in values(model).items():
                np.testing.assert_allclose(
                    value, wanted[name], rtol=4 * torch.finfo(dtype).eps, atol=1e-6, err_msg=name
                )
        for name, value in values(model).items():
            np.testing.assert_array_equal(value, own[name], err_msg=name)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    def test_dtypes(self, case: WeightsCase, dtype: torch.dtype) -> None:
        self.evaluated(case, dtype)

    @pytest.mark.slow
    def test_schedules(self, case: WeightsCase) -> None:
        self.evaluated(case, torch.float64, start="1ep", end="0.5dur")
        self.evaluated(case, torch.float64, start="19ba")
        self.evaluated(case, torch.float64, p=1e-300)

    def test_it_needs_an_engine(self, case: WeightsCase) -> None:
        plan = plan_for([case.algorithm])
        with pytest.raises(cp.EngineRequiredError, match=case.algorithm.identity):
            plan(images(2), targets(2), step=0)

    def test_it_leaves_batches_alone(self, case: WeightsCase) -> None:
        engine = cp.Engine(plan_for([case.algorithm]), model=Classifier(torch.float32))
        x, y = images(3), targets(3)
        with engine.batch(x, y) as batch:
            assert batch.inputs is x
            assert batch.targets is y


def schedule_covers(algorithm: Algorithm[Any], step: int) -> bool:
    """Say whether an algorithm acts, of whose coin only 0 and 1 are used here, at 4 batches an epoch of 5 epochs."""
    scale = {"ba": 1, "ep": 4, "dur": 20}
    start = round(algorithm.start.value * scale[algorithm.start.unit])
    end = None if algorithm.end is None else round(algorithm.end.value * scale[algorithm.end.unit])
    return algorithm.p == 1 and step >= start and (end is None or step < end) and (step - start) % algorithm.every == 0


def softmax_gradient(inputs: Array, rows: Array) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return the gradient of the mean cross-entropy of a linear model, by hand: inputs (N, F), dense targets (N, C)."""

    def gradient(weights: Mapping[str, Array]) -> dict[str, Array]:
        logits = inputs @ weights["weight"].T + weights["bias"]
        powers = np.exp(logits - logits.max(1, keepdims=True))
        error = (powers / powers.sum(1, keepdims=True) - rows) / len(rows)
        return {"weight": error.T @ inputs, "bias": error.sum(0)}

    return gradient


@step_cases
class TestStepsAgainstTheReference:
    def trained(self, case: StepCase, parts: int = 1, **settings: Any) -> None:
        """Compare three steps of SGD, in ``parts`` microbatches, with a loop in NumPy that has no torch in it."""
        algorithm = changed(case.algorithm, **settings)
        torch.manual_seed(0)
        model = nn.Linear(105, 4).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        plan = plan_for([algorithm], contract="always", microbatches=parts)
        engine = cp.Engine(plan, model=model, optimizer=optimizer)
        weights = values(model)
        for step in range(3):
            x, y = images(6 + step, torch.float64), targets(6 + step)
            with engine.batch(x, y) as batch:
                given = list(zip(batch.inputs.flatten(1).chunk(parts), batch.targets.chunk(parts), strict=True))

                def closure(given: list[tuple[Tensor, Tensor]] = given, size: int = len(x)) -> Tensor:
                    total = torch.zeros((), dtype=torch.float64)
                    for inputs, wanted in given:
                        loss = plan.loss(model(inputs), wanted) * len(wanted) / size
                        loss.backward()
                        total += loss.detach()
                    return total

                engine.step(closure)
            gradient = softmax_gradient(x.flatten(1).numpy(), dense(y))
            acts = schedule_covers(algorithm, step)
            used = case.reference(gradient, weights) if acts else gradient(weights)
            weights = {name: weights[name] - 0.5 * used[name] for name in weights}
        for name, value in values(model).items():
            np.testing.assert_allclose(value, weights[name], rtol=0, atol=1e-13, err_msg=name)

    @pytest.mark.slow
    @pytest.mark.parametrize("parts", [1, 2, 3])
    def test_in_microbatches(self, case: StepCase, parts: int) -> None:
        self.trained(case, parts)

    def test_schedules(self, case: StepCase) -> None:
        self.trained(case, start="1ba", end="2ba")
        self.trained(case, every=2)
        self.trained(case, p=1e-300)

    def test_it_needs_an_engine_and_leaves_batches_alone(self, case: StepCase) -> None:
        plan = plan_for([case.algorithm])
        with pytest.raises(cp.EngineRequiredError, match=case.algorithm.identity):
            plan(images(2), targets(2), step=0)
        x, y = images(3), targets(3)
        with cp.Engine(plan, model=nn.Linear(2, 2)).batch(x, y) as batch:
            assert batch.inputs is x
            assert batch.targets is y
