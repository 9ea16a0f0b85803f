"""Several input tensors are edited with the same draws, as each would be alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import SelectiveBackprop

N = 6
Y = torch.arange(N) % 4
LISTS: list[list[Any]] = [
    ["mixup"],
    ["cutmix"],
    ["cutout"],
    [{"name": "cutout", "per_sample": False}, "mixup", "label_smoothing"],
    [{"name": "one_of", "algorithms": ["mixup", "cutmix"]}, {"name": "cutout", "p": 0.5}],
]


def plan(methods: list[Any], inputs: str = "image", **stated: Any) -> cp.Plan:
    return cp.compose(
        methods,
        loss=nn.CrossEntropyLoss(),
        task="multiclass",
        num_classes=4,
        inputs=inputs,
        seed=17,
        **{"contract": "always", **stated},
    )


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(N, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("methods", LISTS, ids=str)
def test_each_is_edited_as_it_would_be_alone(methods: list[Any]) -> None:
    composed, views = plan(methods), (images(0, 3, 8, 8), images(1, 3, 8, 8), images(2, 3, 8, 8))
    kept = [view.clone() for view in views]
    for step in range(4):
        edited, targets = composed(views, Y, step=step)
        assert isinstance(edited, tuple)
        assert len(edited) == 3
        for view, result in zip(views, edited, strict=True):
            alone, wanted = composed(view, Y, step=step)
            assert torch.equal(result, alone)
            assert torch.equal(targets, wanted)
    assert all(torch.equal(view, before) for view, before in zip(views, kept, strict=True))


def test_a_change_of_kind_reaches_all_and_prepare_makes_it_too() -> None:
    composed = plan([{"name": "normalize", "mean": [0.5], "std": [0.25]}, "trivial_augment", "mixup"], "bytes")
    views = tuple((images(seed, 3, 8, 8) * 255).byte() for seed in range(2))
    for edited, alone in zip(composed(views, Y, step=1)[0], [composed(v, Y, step=1)[0] for v in views], strict=True):
        assert edited.dtype == torch.float32
        assert torch.equal(edited, alone)
    for ready, view in zip(composed.prepare(views, Y)[0], views, strict=True):
        assert torch.equal(ready, composed.prepare(view, Y)[0])


def test_a_tuple_of_one_comes_back_as_a_tuple() -> None:
    (edited,), _ = plan(["mixup"])((images(0, 1, 4, 4),), Y, step=0)
    assert torch.equal(edited, plan(["mixup"])(images(0, 1, 4, 4), Y, step=0)[0])


def test_shapes_may_differ_where_methods_act_on_whole_samples() -> None:
    composed, views = plan(["mixup", "label_smoothing"], "features"), (images(0, 5), images(1, 3, 2))
    edited, _ = composed(views, Y, step=3)
    mixing = composed.draws(3, cp.BatchSpec(N, (5,), 4))["mixup"]
    for view, result in zip(views, edited, strict=True):
        share = mixing.lam.to(torch.float32)
        torch.testing.assert_close(result, share * view + (1 - share) * view[mixing.perm])


@pytest.mark.parametrize(
    ("methods", "named"),
    [
        (["mixup", "cutout"], "cutout"),
        (["cutmix"], "cutmix"),
        (["trivial_augment"], "trivial_augment"),
        ([{"name": "normalize", "mean": [0.5], "std": [0.25]}], "normalize"),
        ([{"name": "one_of", "algorithms": ["mixup", "cutmix"]}], "one_of"),
    ],
    ids=str,
)
def test_shapes_must_be_equal_where_a_method_looks_inside_samples(methods: list[Any], named: str) -> None:
    with pytest.raises(cp.DataError, match=rf"{named} edits positions or channels.* \(3, 8, 8\), \(3, 4, 4\)"):
        plan(methods, "unit")((images(0, 3, 8, 8), images(1, 3, 4, 4)), Y, step=0)


def test_each_must_be_what_was_stated() -> None:
    good = images(0, 3, 8, 8)
    for bad, message in (
        (good.byte(), "image inputs cannot have dtype torch.uint8"),
        (good[0], "first axes must be equally long"),
        (good.flatten(1), r"image inputs are \(N, C, H, W\)"),
        (good.to("meta"), "input tensors lie on cpu, meta"),
    ):
        with pytest.raises(cp.DataError, match=message):
            plan(["mixup"])((good, bad), Y, step=0)
    for wrong in ([good], (), (good, None), None):
        with pytest.raises(cp.DataError, match="inputs are a tensor, or a tuple of tensors"):
            plan(["mixup"])(wrong, Y, step=0)  # type: ignore[call-overload]


class TestMemory:
    METHODS = ("cutout", "mixup")

    def test_what_is_given_away_is_used_and_holds_the_same(self) -> None:
        composed, views = plan([*self.METHODS]), (images(0, 3, 8, 8), images(1, 3, 8, 8))
        wanted, _ = composed(views, Y, step=0)
        edited, _ = composed(views, Y, step=0, donate=True)
        for view, result, right in zip(views, edited, wanted, strict=True):
            assert result.data_ptr() == view.data_ptr()
            assert torch.equal(result, right)

    @pytest.mark.parametrize("same", [True, False])
    def test_tensors_in_one_memory_are_not_edited_twice(self, same: bool) -> None:
        both = torch.stack([images(0, 3, 8, 8), images(1, 3, 8, 8)])
        views = (both[0], both[0]) if same else (both[0], both[1])
        composed, kept = plan([*self.METHODS]), both.clone()
        wanted = [composed(view.clone(), Y, step=0)[0] for view in views]
        edited, _ = composed(views, Y, step=0, donate=True)
        assert torch.equal(both, kept)
        assert all(torch.equal(result, right) for result, right in zip(edited, wanted, strict=True))


class Copies(cp.Algorithm[None], name="copies"):
    """Makes new inputs of large values, and leaves others as they are."""

    @cp.transform(inputs=cp.IMAGE, law=cp.Law.CONVEX)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs / 2) if batch.inputs.mean() > 1 else batch


@pytest.mark.parametrize("made", [0, 1])
def test_memory_is_the_plans_only_where_all_of_it_is(made: int) -> None:
    views = tuple(images(number, 3, 8, 8) + 2 * (number == made) for number in range(2))
    kept = [view.clone() for view in views]
    edited, _ = plan([Copies(before="cutout"), "cutout"])(views, Y, step=0)
    assert all(torch.equal(view, before) for view, before in zip(views, kept, strict=True))
    assert (edited[0] == 0).any()


class Touches(cp.Algorithm[None], name="touches"):
    """Edits inputs of large values, and declares only the targets."""

    @cp.transform(targets=cp.MIXABLE, law=cp.Law.CONVEX)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs(batch.inputs / 2) if batch.inputs.mean() > 1 else batch


class Writes(cp.Algorithm[None], name="writes"):
    """Writes into inputs of large values that it was lent."""

    @cp.transform(inputs=cp.IMAGE, law=cp.Law.CONVEX)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch.with_inputs((batch.inputs.mul_(0.5) if batch.inputs.mean() > 1 else batch.inputs).clone())


@pytest.mark.parametrize(("method", "message"), [(Touches, "does not declare it"), (Writes, "writes into the inputs")])
def test_every_tensor_is_held_to_the_contract(method: type[cp.Algorithm[Any]], message: str) -> None:
    composed = plan([method()])
    composed((images(0, 3, 8, 8), images(1, 3, 8, 8)), Y, step=0)
    with pytest.raises(cp.ContractError, match=message):
        composed((images(0, 3, 8, 8), images(1, 3, 8, 8) + 2), Y, step=0)


def engine_for(*methods: Any) -> cp.Engine:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    return cp.Engine(plan([*methods]), model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


def test_the_engine_takes_them_too() -> None:
    engine, views = engine_for("mixup", "ema"), (images(0, 1, 4, 4), images(1, 1, 4, 4))
    with engine.batch(views, Y) as batch:
        wanted, targets = plan(["mixup"])(views, Y, step=0)
        assert all(map(torch.equal, batch.all_inputs, wanted))
        assert torch.equal(batch.inputs, wanted[0])
        assert torch.equal(batch.targets, targets)


@pytest.mark.parametrize("stated", [True, False])
def test_a_method_that_runs_the_model_gives_it_all_of_them_once(stated: bool) -> None:
    calls: list[tuple[Tensor, ...]] = []

    class Sums(nn.Linear):
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            calls.append((one, other))
            return super().forward((one + 2 * other).flatten(1))

    views, model = (images(0, 1, 4, 4), images(1, 1, 4, 4)), Sums(16, 4)
    engine = cp.Engine(
        plan([SelectiveBackprop(selection="top")]),
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        predict=(lambda one, other: model(one, other)) if stated else None,
    )
    with engine.batch(views, Y) as batch:
        ((one, other),) = calls
        losses = nn.functional.cross_entropy(model(*views), Y, reduction="none")
        kept = losses.topk(3).indices.sort().values
        assert (one is views[0], other is views[1]) == (True, True)
        assert all(torch.equal(left, view[kept]) for left, view in zip(batch.all_inputs, views, strict=True))
        assert torch.equal(batch.targets, Y[kept])


def test_fewer_samples_are_fewer_of_each() -> None:
    class FirstHalf(cp.Algorithm[None], name="first_half"):
        @cp.transform(
            inputs=cp.Edit(frozenset({cp.IMAGE}), acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
            targets=cp.Edit(frozenset({cp.INDEX}), acts=frozenset({cp.Axis.SAMPLE}), resizes=True),
            claims=cp.BATCH_SIZE,
        )
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_inputs(batch.inputs[: N // 2]).with_targets(batch.targets[: N // 2])

    views = (images(0, 3, 8, 8), images(1, 3, 4, 4))
    edited, targets = plan([FirstHalf()])(views, Y, step=0)
    assert all(torch.equal(result, view[: N // 2]) for result, view in zip(edited, views, strict=True))
    assert torch.equal(targets, Y[: N // 2])
