"""Every fault that the checker finds, and that it finds them all at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, SAM, CutMix, CutOut, GradientClipping, LabelSmoothing, MixUp, OneOf
from counterpoint.core import Duration, Facts, Terms, compose
from counterpoint.core.declare.kinds import TASKS
from counterpoint.core.faults import CODES
from counterpoint.core.plan.schedule import Clock
from counterpoint.core.run.training.model_requirements import check_model
from tests.core.methods import Blend, Hole, Normal, Recolor, Scale, Trace, Twice, check, codes, resolve

CLASSES = {"task": "multiclass", "num_classes": 10}


def faults(algorithms: list[object], **settings: object) -> tuple[cp.Fault, ...]:
    with pytest.raises(cp.CompositionError) as caught:
        cp.compose(algorithms, **{**CLASSES, **settings})
    return caught.value.faults


def found(algorithms: list[object], **settings: object) -> list[str]:
    return [fault.code for fault in faults(algorithms, **settings)]


def test_all_faults_are_listed_at_once() -> None:
    wrong = ["mixup", "cutmix", "mixpu", {"name": "cutout", "length": 3}, "label_smoothing", None]
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert sorted(found(wrong, loss=loss, task=None)) == [
        "bad-setting",
        "double-smoothing",
        "not-an-algorithm",
        "task-unstated",
        "two-mixers",
        "unknown-algorithm",
    ]


def test_every_fault_says_what_is_wrong_and_how_to_mend_it() -> None:
    for fault in faults([MixUp(), CutMix(), "nothing", LabelSmoothing(id="a", after="b")], task="classes"):
        assert fault.code in CODES
        assert fault.message
        assert fault.fix
        assert fault.code in str(fault)


def test_a_composition_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="mixup and cutmix"):
        cp.compose([MixUp(), CutMix()], **CLASSES)


def test_an_unknown_method_gets_the_nearest_names() -> None:
    (fault,) = faults(["mixpu"])
    assert fault.code == "unknown-algorithm"
    assert "'mixup'" in fault.message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": -1}, ["alpha", "-1", "greater than or equal to 0"]),
        ({"alpha": float("nan")}, ["alpha", "nan"]),
        ({"alpha": "0.2"}, ["alpha", "0.2"]),
        ({"alpah": 1}, ["alpah", "alpha"]),
        ({"p": 1.2}, ["p is 1.2"]),
        ({"start": "1 fortnight"}, ["1 fortnight", "10ep"]),
    ],
)
def test_a_wrong_setting_names_the_key_the_value_and_what_is_allowed(
    settings: dict[str, object], words: list[str]
) -> None:
    (fault,) = faults([{"name": "mixup", **settings}])
    assert fault.code == "bad-setting"
    for word in ["algorithms[0]", "mixup", *words]:
        assert word in fault.message


def test_a_wrong_setting_within_a_choice_is_placed() -> None:
    (fault,) = faults([{"name": "one_of", "algorithms": ["mixup", {"name": "cutmix", "alpha": -1}]}])
    assert "algorithms[0] (one_of): algorithms[1].alpha is -1: " in fault.message


def test_two_mixers_are_refused_unless_one_is_chosen_or_they_never_meet() -> None:
    assert found([MixUp(), CutMix()]) == ["two-mixers"]
    assert found([MixUp(), OneOf(algorithms=[CutMix()])]) == ["two-mixers"]
    cp.compose([OneOf(algorithms=[MixUp(), CutMix()])], **CLASSES)
    apart = [MixUp(end="0.5dur"), CutMix(start="0.5dur")]
    cp.compose(apart, **CLASSES, steps_per_epoch=10, max_duration="4ep")
    close = [MixUp(end="21ba"), CutMix(start="0.5dur")]
    assert found(close, steps_per_epoch=10, max_duration="4ep") == ["two-mixers"]


def test_smoothing_in_the_list_and_in_the_loss_says_what_would_result() -> None:
    (fault,) = faults([LabelSmoothing(smoothing=0.1)], loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    assert fault.code == "double-smoothing"
    assert "0.1 and 0.1 make 0.19" in fault.message
    assert found([LabelSmoothing(id="a"), LabelSmoothing(id="b")]) == ["double-smoothing"]


def test_a_loss_must_accept_the_targets_that_it_gets() -> None:
    assert found([MixUp()], loss=nn.CrossEntropyLoss(), loss_accepts={"index"}) == ["loss-targets"]
    (fault,) = faults([MixUp()], loss=lambda outputs, targets: outputs.sum())
    assert fault.code == "loss-unknown"
    assert "loss_accepts={'dense', 'index'}" in fault.fix
    plan = cp.compose([MixUp()], loss=lambda outputs, targets: outputs.sum(), loss_accepts={"dense"}, **CLASSES)
    assert plan.order == ("dense_targets", "mixup")


def test_a_loss_that_takes_dense_targets_only_gets_them_without_any_method() -> None:
    plan = cp.compose([], loss=lambda outputs, targets: outputs.sum(), loss_accepts={"dense"}, **CLASSES)
    assert plan.order == ("dense_targets",)
    assert cp.compose(["cutout"], loss=nn.CrossEntropyLoss(), **CLASSES).order == ("cutout",)


def test_two_owners_of_a_slot() -> None:
    assert found([EMA(id="a"), EMA(id="b")]) == ["two-owners"]
    assert codes([Twice(id="a"), Twice(id="b")]) == ["two-owners"]


def test_a_slot_is_shared_only_if_both_allow_it() -> None:
    shared = cp.Claim(cp.MIXING.slot, shared=True)

    class Friendly(cp.Algorithm[None], name="friendly"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX, claims=shared)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    assert codes([Friendly(id="a"), Friendly(id="b")]) == []
    assert codes([Friendly(), Blend()]) == ["two-mixers"]


def test_two_of_one_method_need_an_id_each() -> None:
    assert found([CutOut(), CutOut(length=0.2)]) == ["duplicate-id"]
    assert found([CutOut(id="mixup"), MixUp()]) == ["duplicate-id"]
    assert found([OneOf(algorithms=[CutOut(), CutOut()])]) == ["duplicate-id"]


def test_the_task_is_stated_and_known() -> None:
    assert found([MixUp()], task=None) == ["task-unstated"]
    (fault,) = faults([MixUp()], task="multiclas")
    assert "'multiclass'" in fault.message


def test_a_method_without_a_meaning_for_the_task() -> None:
    assert "task-unsupported" in found([LabelSmoothing()], task="regression", inputs="features")


def test_inputs_must_be_of_a_kind_that_the_method_edits() -> None:
    (fault,) = faults([CutOut()], inputs="features")
    assert fault.code == "needs-unmet"
    assert "features" in fault.message
    assert found([MixUp()], inputs="bytes", model_inputs={"bytes"}) == ["needs-unmet"]
    assert found([CutOut(space="normalized")], inputs="unit") == ["needs-unmet"]
    assert found([CutOut()], inputs="imgae") == ["inputs-unknown"]


def test_raw_bytes_reach_no_model_unless_it_takes_them() -> None:
    (fault,) = faults([CutOut()], inputs="bytes")
    assert fault.code == "model-inputs"
    assert "any but bytes, and would get bytes" in fault.message
    assert "model_inputs={'bytes'}" in fault.fix
    assert cp.compose([CutOut()], inputs="bytes", model_inputs={"bytes"}, **CLASSES).order == ("cutout",)
    assert codes([Normal(), Hole()], inputs=cp.BYTES) == []
    assert found([], inputs="bytes") == ["model-inputs"]


def test_a_model_gets_the_inputs_that_it_was_said_to_take() -> None:
    assert found([CutOut()], inputs="unit", model_inputs={"normalized"}) == ["model-inputs"]
    assert found([CutOut()], model_inputs={"unit", "normalized"}) == ["model-inputs"]
    cp.compose([CutOut()], inputs="normalized", model_inputs={"unit", cp.NORMALIZED}, **CLASSES)
    facts = Facts(TASKS["multiclass"], cp.BYTES, model_inputs=frozenset({cp.BYTES}))
    with pytest.raises(cp.CompositionError, match="kind bytes, and would get normalized, because of normal") as caught:
        compose([Normal()], resolve=resolve, facts=facts, terms=Terms.YAML)
    (fault,) = caught.value.faults
    assert "give Trainer your model and model_inputs={'normalized'}" in fault.fix


def test_dense_targets_need_the_number_of_classes() -> None:
    assert found([MixUp()], num_classes=None) == ["classes-unstated"]


def test_durations_need_what_they_count_in() -> None:
    assert found([MixUp(start="1ep")]) == ["duration-unknown"]
    assert found([MixUp(end="0.5dur")], steps_per_epoch=10) == ["duration-unknown"]
    assert found([MixUp(end="0.5dur")], max_duration="10ep") == ["duration-unknown"]
    assert found([], max_duration="0.5dur") == ["duration-unknown"]
    assert found([MixUp(start="5ba", end="5ba")]) == ["empty-window"]


def test_a_choice_takes_only_what_can_be_chosen_for_a_batch() -> None:
    assert found([OneOf(algorithms=[MixUp(), EMA()])]) == ["branch-hook"]
    choice = OneOf(algorithms=[Normal(), Hole()])
    assert "conditional-kind" in codes([choice], inputs=cp.BYTES)
    assert codes([Normal(p=0.5)], inputs=cp.BYTES) == ["conditional-kind"]
    assert codes([Normal(start="1ba")], inputs=cp.BYTES) == ["conditional-kind"]


def test_a_schedule_that_switches_nothing() -> None:
    class Surgery(cp.Algorithm[None], name="surgery"):
        @cp.before(cp.Event.SETUP, writes="modules")
        def cut(self, state: object, scope: cp.Scope) -> None:
            """Change nothing."""

    assert codes([Surgery()]) == []
    for schedule in ({"p": 0.5}, {"start": "1ba"}, {"end": "9ba"}, {"every": 2}):
        assert codes([Surgery(**schedule)]) == ["schedule-unused"]
        assert codes([Trace(**schedule)]) == []


def test_branches_that_would_need_different_orders() -> None:
    choice = OneOf(algorithms=[Blend(), Hole(value=2.0)])
    assert codes([choice, Recolor()]) == []

    class Late(cp.Algorithm[None], name="late"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    apart = OneOf(algorithms=[Recolor(), Late()])
    assert codes([apart, Hole(value=1.0)]) == ["branch-order"]


def test_wishes_between_those_who_never_meet() -> None:
    assert codes([Trace(after="scale"), Scale()]) == ["wish-impossible"]


def test_the_smallest_batch() -> None:
    class Pairs(cp.Algorithm[None], name="pairs"):
        min_batch = 2

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    assert found([Pairs()], batch_size=1) == ["batch-too-small"]
    cp.compose([Pairs()], batch_size=2, **CLASSES)


def test_the_whole_batch_in_one_forward_pass() -> None:
    class Across(cp.Algorithm[None], name="across"):
        @cp.around(cp.Event.FORWARD, writes="outputs", whole_batch=True)
        def inside(self, state: object, scope: cp.Scope) -> Generator[None, cp.Outcome, None]:
            yield

    assert found([Across()], microbatches=2) == ["microbatches"]
    cp.compose([Across()], **CLASSES)


def test_the_losses_of_samples_need_a_loss_that_has_them() -> None:
    class Picky(cp.Algorithm[None], name="picky"):
        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.CONVEX, sample_losses=True)
        def apply(self, batch: cp.Batch, draws: None, losses: Callable[[], Tensor]) -> cp.Batch:
            return batch

    assert found([Picky()]) == ["no-sample-losses"]
    assert found([Picky()], loss=lambda outputs, targets: outputs.sum(), loss_accepts={"index"}) == ["no-sample-losses"]


def test_outputs_of_another_kind_than_the_loss_takes_are_found_when_the_plan_meets_a_model() -> None:
    kind = cp.OutputKind("small numbers", lambda outputs: "one is large" if outputs.max() > 1 else "")
    loss = cp.LossSpec("small", lambda outputs, targets: outputs.sum(), frozenset({cp.INDEX}), outputs=kind)
    plan = cp.compose([], loss=loss, **CLASSES)
    check_model(plan, nn.Linear(2, 10), outputs=torch.ones(1, 10))
    with pytest.raises(
        cp.CompositionError, match="the loss small takes small numbers of the model, and one is large"
    ) as caught:
        check_model(plan, nn.Linear(2, 10), outputs=torch.full((1, 10), 2.0))
    assert [fault.code for fault in caught.value.faults] == ["loss-outputs"]


def test_fixes_are_worded_for_a_config_too() -> None:
    (fault,) = faults([MixUp(), CutMix()], terms=Terms.YAML)
    assert "`{name: one_of, algorithms: [mixup, cutmix]}`" in fault.fix


def test_a_plugin_that_cannot_be_used_is_a_fault_like_any_other() -> None:
    def broken(name: str) -> type[cp.Algorithm[None]]:
        raise cp.BrokenPluginError(f"{name} of the package strange cannot be imported")

    with pytest.raises(cp.CompositionError, match="strange") as caught:
        compose(["odd"], resolve=broken, facts=Facts(TASKS["multiclass"], cp.IMAGE))
    assert [fault.code for fault in caught.value.faults] == ["broken-plugin"]


def test_every_code_has_a_test_here() -> None:
    folder = Path(__file__).parent
    tested = "".join(
        (folder / name).read_text()
        for name in ("test_checker.py", "test_order.py", "test_engine.py", "test_activity.py", "test_statements.py")
    )
    elsewhere = {"bad-config", "loop-limit"}  # of the command line, and of the integrations
    assert [code for code in CODES.keys() - elsewhere if f'"{code}"' not in tested] == []


def test_schedules_in_epochs_become_batches() -> None:
    plan = check([Scale(start="2ep", end="0.5dur", every=3)], clock=Clock(10, 100))
    schedule = plan.members[0].schedule
    assert (schedule.start, schedule.end, schedule.every) == (20, 50, 3)
    assert [step for step in range(19, 30) if schedule.covers(step)] == [20, 23, 26, 29]


def test_the_plan_is_written_down_and_fits_the_page() -> None:
    plan = cp.compose(
        [LabelSmoothing(), OneOf(algorithms=[MixUp(), CutMix()], weights=[1, 3]), CutOut(p=0.5), EMA()],
        loss=nn.CrossEntropyLoss(),
        **CLASSES,
    )
    text = plan.explain()
    assert max(map(len, text.splitlines())) <= 80
    for word in ["dense_targets (inserted)", "index → dense", "25% mixup", "p=0.5", "around ema", plan.fingerprint]:
        assert word in text
    assert re.search(rf'"fingerprint": "{plan.fingerprint}"', plan.to_json())


def test_the_plan_says_what_reaches_the_loss() -> None:
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    windows = [MixUp(end=Duration(9, "ba")), CutMix(start=Duration(9, "ba"), p=0.5)]
    text = cp.compose(windows, loss=loss, **CLASSES).explain()
    assert "  smoothing: 0.1 by the loss CrossEntropyLoss\n" in text
    assert "  mixing: by mixup (until 9ba), by cutmix (from 9ba, p=0.5)\n" in text
    text = cp.compose([LabelSmoothing(smoothing=0.25)], **CLASSES).explain()
    assert "at the loss\n  smoothing: 0.25 by label_smoothing\n  mixing: none" in text


def test_every_pair_of_steps_and_of_hooks_is_explained_on_request() -> None:
    clips = [GradientClipping(), GradientClipping(by="value", id="value", before=("gradient_clipping",))]
    plan = cp.compose([CutOut(), MixUp(), *clips], **CLASSES)
    text = " ".join(plan.explain(pairs=True).split())
    assert "cutout before mixup: single-before-across: edits of single samples come before mixing" in text
    assert "dense_targets before mixup: needs-and-gives: mixup needs" in text
    assert "dense_targets before cutout: commuting: they commute" in text
    assert "value before gradient_clipping: moved, wish: the user asked for value before gradient_clipping" in text


def test_the_hooks_of_a_span_are_shown_as_they_run() -> None:
    lines = cp.compose([EMA(), SAM(), GradientClipping()], **CLASSES).explain().splitlines()
    shown = [line.split(":")[0].strip() for line in lines if line.startswith(("  in its place", "  after", "  before"))]
    assert shown == ["in its place sam", "after ema", "before gradient_clipping"]


def test_the_fingerprint_follows_what_the_plan_does() -> None:
    def print_of(*algorithms: object, **settings: object) -> str:
        return cp.compose(list(algorithms), **{**CLASSES, **settings}).fingerprint

    base = print_of(MixUp(), CutOut())
    assert print_of(CutOut(), MixUp()) == base
    others = [
        print_of(MixUp(alpha=0.3), CutOut()),
        print_of(MixUp(p=0.5), CutOut()),
        print_of(MixUp(), CutOut(), seed=1),
        print_of(MixUp(), CutOut(), num_classes=11),
        print_of(MixUp(), CutOut(), loss=nn.CrossEntropyLoss()),
        print_of(MixUp(), CutOut(), EMA()),
        print_of(MixUp(id="other"), CutOut()),
        print_of(MixUp(before="cutout"), CutOut()),
    ]
    assert len({base, *others}) == 9


def test_a_plan_with_hooks_is_not_called_as_if_it_had_none() -> None:
    plan = cp.compose([EMA(), MixUp()], **CLASSES)
    with pytest.raises(cp.EngineRequiredError, match="ema"):
        plan(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), step=0)


def test_a_plan_without_a_loss_has_none() -> None:
    with pytest.raises(cp.CounterpointError, match="without a loss"):
        cp.compose([MixUp()], **CLASSES).loss(torch.rand(2, 10), torch.rand(2, 10))
