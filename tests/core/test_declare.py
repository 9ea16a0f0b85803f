"""A class that declares its effects wrongly fails when it is created, and says how to write it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import pytest
from pydantic import ValidationError

import counterpoint as cp
from counterpoint.algorithms import MixUp


def refused(*words: str) -> pytest.RaisesExc[cp.DeclarationError]:
    return pytest.raises(
        cp.DeclarationError,
        check=lambda error: all(word in str(error) for word in ("wrong:", "why:", "right:", *words)),
    )


def test_a_transform_declares_an_edit() -> None:
    with refused("declares no edit"):

        @cp.transform()
        def apply(self: object, batch: object, draws: object) -> None: ...


def test_kinds_need_a_law() -> None:
    with refused("law=Law.CONVEX", "Edit"):

        @cp.transform(inputs=cp.CONTINUOUS)
        def apply(self: object, batch: object, draws: object) -> None: ...


def test_kinds_belong_to_their_field() -> None:
    with refused("dense", "one field"):

        @cp.transform(inputs={cp.DENSE}, law=cp.Law.CONVEX)
        def apply(self: object, batch: object, draws: object) -> None: ...

    with refused("at least one kind"):

        @cp.transform(inputs=set(), law=cp.Law.CONVEX)
        def apply(self: object, batch: object, draws: object) -> None: ...


def test_unknown_fields_get_the_nearest() -> None:
    with refused("'paramters'", "'parameters'"):
        cp.after(cp.Event.STEP, reads="paramters")(lambda self, state, scope: None)


def test_methods_take_the_arguments_that_they_get() -> None:
    with refused("apply(self, batch, draws)"):

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX)
        def apply(self: object, batch: object) -> None: ...

    with refused("(self, state, scope, run)"):

        @cp.replace(cp.Event.STEP, writes="parameters")
        def run(self: object, state: object, scope: object) -> None: ...


def test_a_hook_names_what_it_touches() -> None:
    with refused("names no field"):

        @cp.before(cp.Event.UPDATE)
        def hook(self: object, state: object, scope: object) -> None: ...


def test_only_what_is_written_is_restored() -> None:
    with refused("can be restored"):

        @cp.around(cp.Event.EVALUATION, reads="parameters", restores="parameters")
        def hook(self: object, state: object, scope: object) -> object:
            yield


def test_around_hooks_yield_and_others_do_not() -> None:
    with refused("outcome = yield"):

        @cp.around(cp.Event.EVALUATION, writes="parameters")
        def hook(self: object, state: object, scope: object) -> None: ...

    with refused("outcome = yield"):

        @cp.after(cp.Event.STEP, reads="parameters")
        def other(self: object, state: object, scope: object) -> object:
            yield


def test_only_the_step_is_replaced() -> None:
    with refused("Event.EPOCH", "Event.STEP"):
        cp.replace(cp.Event.EPOCH, writes="parameters")


def test_an_algorithm_does_something() -> None:
    with refused("would do nothing"):

        class Idle(cp.Algorithm[None], name="idle"):
            pass


def test_names_are_snake_case() -> None:
    with refused("'My-Method'"):

        class MyMethod(MixUp, name="My-Method"):
            pass


def test_a_declared_method_is_declared_again_when_it_is_replaced() -> None:
    with refused("def apply", "MixUp"):

        class Other(MixUp, name="other"):
            def apply(self, batch: cp.Batch, draws: object) -> cp.Batch:
                return batch


def test_the_name_follows_the_class_unless_it_is_stated() -> None:
    class BlurPoolLike(MixUp):
        pass

    assert BlurPoolLike.name == "blur_pool_like"
    assert BlurPoolLike().identity == "blur_pool_like"
    assert MixUp(id="second").identity == "second"
    assert MixUp.name == "mixup"


def test_an_instance_may_edit_one_more_field_and_have_a_meaning_for_fewer_tasks() -> None:
    class Flagging(cp.Algorithm[None], name="flagging"):
        flag: bool = False

        def declared(self) -> cp.Declaration:
            if not self.flag:
                return self.declaration
            edit = cp.Edit(frozenset({cp.DENSE}), form=cp.Form.LINEAR, fills=0.0)
            return self.declaration.extend("apply", cp.Field.TARGETS, edit).only("segmentation")

        @cp.transform(inputs=cp.IMAGES, law=cp.Law.FILL)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    facts = {"num_classes": 3, "inputs": "unit"}
    assert cp.compose([Flagging()], task="multiclass", **facts).order == ("flagging",)
    assert cp.compose([Flagging(flag=True)], task="segmentation", **facts).order == ("dense_targets", "flagging")
    with pytest.raises(cp.CompositionError, match="flagging as it is set has no meaning for multiclass") as caught:
        cp.compose([Flagging(flag=True)], task="multiclass", **facts)
    assert [fault.code for fault in caught.value.faults] == ["task-unsupported"]
    assert set(Flagging.declaration.transforms[0].edits) == {cp.Field.INPUTS}


def test_what_is_drawn_makes_no_class_of_its_own() -> None:
    assert cp.Algorithm[int] is cp.Algorithm[Any] is cp.Algorithm
    assert MixUp.__bases__ == (cp.Algorithm,)


def test_an_algorithm_may_be_generic_in_its_settings() -> None:
    Amount = TypeVar("Amount")

    class Shift(cp.Algorithm[Amount], Generic[Amount], name="shift"):
        amount: Amount

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    assert Shift[float](amount=0.5).amount == 0.5
    with pytest.raises(ValidationError, match="valid integer"):
        Shift[int](amount=0.5)


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("text", "epoch", "total", "batches"),
    [
        ("1.7ep", 3, 99, 5),
        ("0.57dur", 7, 100, 57),
        ("0.9dur", 7, 99, 89),
        ("1e-3dur", 7, 5000, 5),
        ("2e+1ba", None, None, 20),
        ("1dur", 7, 41, 41),
        ("0ep", None, None, 0),
        ("1ep", None, 41, None),
        ("1e12ba", None, None, 10**12),
    ],
)
def test_a_duration_is_counted_in_whole_batches(
    text: str, epoch: int | None, total: int | None, batches: int | None
) -> None:
    assert cp.Duration.parse(text).batches(steps_per_epoch=epoch, total=total) == batches


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("text", "fix"), [("2.6ba", "'3ba'"), ("2.4ba", "'2ba'"), ("1.1dur", "'1dur'"), ("2e12ep", "1e12ep")]
)
def test_a_duration_that_is_none_is_answered_with_the_nearest(text: str, fix: str) -> None:
    with pytest.raises(cp.ArgumentError, match=fix):
        cp.Duration.parse(text)


@pytest.mark.kind("30")
def test_an_edit_gives_a_kind_of_its_own_field() -> None:
    with refused("dense", "each kind belongs to one field"):

        @cp.transform(inputs=cp.Edit(cp.IMAGES, gives=cp.DENSE))
        def apply(self: object, batch: object, draws: object) -> None: ...


@pytest.mark.kind("30")
def test_an_amount_is_that_of_every_claim_of_its_method_and_of_no_other() -> None:
    class Two(cp.Algorithm[None], name="two"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX, claims=[cp.MIXING, cp.SMOOTHING])
        def one(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX, claims=[cp.MIXING])
        def other(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    declared = Two().declaration.claim(one=0.25)
    assert declared.claims == (cp.MIXING.of(0.25), cp.SMOOTHING.of(0.25), cp.MIXING)
