"""What Hugging Face's loop cannot do with a plan is refused before it trains, in its own terms, all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.algorithms import EMA, SAM, GradientClipping, ManifoldMixup, MixUp, SelectiveBackprop
from counterpoint.integrations.fields import Fields
from counterpoint.integrations.transformers import CounterpointTrainer
from tests.integrations import hf, recipe


def composed(*algorithms: object, **stated: Any) -> cp.Plan:
    facts = {"loss": nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": recipe.CLASSES}
    return cp.compose(algorithms, **{**facts, "inputs": "normalized", **stated})


def faults(folder: Path, plan: cp.Plan | None = None, *given: Any, **changes: Any) -> list[tuple[str, str]]:
    """What is refused, and what to write instead."""
    with pytest.raises(cp.CompositionError) as caught:
        hf.trainer(folder / "out", composed(MixUp()) if plan is None else plan, *given, **changes)
    assert not (folder / "out").exists()
    assert all(fault.code in cp.core.faults.CODES for fault in caught.value.faults)
    return [(f"{fault.code}: {fault.message}", fault.fix) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_smoothing_factor", 0.1),
        ("auto_find_batch_size", True),
        ("bf16_full_eval", True),
        ("fp16_full_eval", True),
        ("torch_empty_cache_steps", 4),
    ],
)
def test_arguments_that_must_stay_off(name: str, value: object, tmp_path: Path) -> None:
    ((message, fix),) = faults(tmp_path, **{name: value})
    assert message.startswith(f"loop-limit: {name}={value!r} ")
    assert fix == f"leave {name} out"


@pytest.mark.parametrize("optim", ["lomo", "galore_adamw_layerwise", "schedule_free_adamw"])
def test_optimizers_that_step_or_average_by_themselves(optim: str, tmp_path: Path) -> None:
    ((message, fix),) = faults(tmp_path, optim=optim)
    assert message.startswith(f"loop-limit: optim={optim!r} ")
    assert "adamw_torch" in fix


def test_clipping_twice(tmp_path: Path) -> None:
    """The Trainer clips by default, after the methods of the plan."""
    ((message, fix),) = faults(tmp_path, composed(GradientClipping()), max_grad_norm=1.0)
    assert message.startswith("loop-limit: gradient_clipping edits gradients")
    assert "max_grad_norm=1.0" in message
    assert fix == "write max_grad_norm=0"
    hf.trainer(tmp_path, composed(SAM(), EMA()), max_grad_norm=1.0)


def test_gradients_that_fp16_scales(tmp_path: Path) -> None:
    ((message, fix),) = faults(tmp_path, composed(GradientClipping(), SAM(), EMA()), fp16=True)
    assert message.startswith("loop-limit: sam, gradient_clipping uses gradients")
    assert fix == "write bf16=True instead"


@pytest.mark.slow
def test_what_the_plan_was_told_of_batches_and_the_run(tmp_path: Path) -> None:
    ((message, fix),) = faults(tmp_path, composed(batch_size=16), gradient_accumulation_steps=2)
    assert "device batches of 16" in message
    assert fix == "write compose(..., batch_size=8)"
    plan = composed(EMA(start="0.5dur"), batch_size=8, steps_per_epoch=10, max_duration="3ep")
    trainer = hf.trainer(tmp_path, plan, gradient_accumulation_steps=2)
    with pytest.raises(cp.CompositionError) as caught:
        trainer.train()
    assert [fault.fix for fault in caught.value.faults] == [
        "write compose(..., steps_per_epoch=40)",
        "write compose(..., max_duration='40ba')",
    ]
    assert trainer.engine.batches == 0


@pytest.mark.slow
def test_the_length_of_a_run_is_counted_in_batches(tmp_path: Path) -> None:
    """Five batches in an epoch, three steps of at most two: after four steps, seven batches."""
    options = {"train_dataset": hf.samples()[:40]}
    for settings, total in (({"num_train_epochs": 3}, "15ba"), ({"max_steps": 4}, "7ba"), ({"max_steps": 6}, "10ba")):
        plan = composed(EMA(start="0.5dur"), steps_per_epoch=5, max_duration=total)
        trainer = hf.trainer(tmp_path, plan, None, options, gradient_accumulation_steps=2, **settings)
        trainer.train()
        assert f"{trainer.engine.batches}ba" == total


def test_losses_that_would_stand_for_the_plans(tmp_path: Path) -> None:
    ((message, fix),) = faults(tmp_path, composed(loss=None))
    assert "the plan has no loss" in message
    assert fix == "give compose a loss="
    ((message, _),) = faults(tmp_path, None, None, {"compute_loss_func": nn.functional.cross_entropy})
    assert message.startswith("loop-limit: compute_loss_func would stand for the plan's loss")

    class Own(hf.Ordered):
        def compute_loss(self, *given: Any, **named: Any) -> Any:
            return torch.zeros(())

    ((message, _),) = faults(tmp_path, kind=Own)
    assert message.startswith("loop-limit: compute_loss would stand for the plan's loss")


def test_a_model_that_is_made_anew(tmp_path: Path) -> None:
    ((message, fix),) = faults(tmp_path, None, None, {"model_init": hf.net})
    assert message.startswith("loop-limit: model_init makes a new model")
    assert "give model=" in fix


class Unnamed(hf.Net):
    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return super().forward(inputs["pixel_values"])


@pytest.mark.slow
def test_columns_that_the_trainer_would_drop_or_not_take_for_labels(tmp_path: Path) -> None:
    found = faults(tmp_path, None, Unnamed(*recipe.model()))
    assert [fix for _, fix in found] == ["write label_names=['labels']", "write remove_unused_columns=False"]
    assert "drops ['pixel_values'], which Unnamed.forward does not name" in found[1][0]
    changes = {"label_names": ["labels"], "remove_unused_columns": False, "max_steps": 1}
    trainer = hf.trainer(tmp_path, composed(MixUp()), Unnamed(*recipe.model()), **changes)
    trainer.train()
    assert "eval_loss" in trainer.evaluate()


class Reads(hf.Net):
    """A model of texts."""

    main_input_name = "input_ids"

    def forward(self, attention_mask: Tensor, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return super().forward(input_ids.float() * attention_mask.unsqueeze(1).unsqueeze(1))


@pytest.mark.slow
@pytest.mark.kind("8")
def test_inputs_of_another_name_are_answered_with_theirs(tmp_path: Path) -> None:
    """Not with remove_unused_columns, with which the inputs would be missing all the same."""
    texts = [
        {"attention_mask": torch.ones(6), "input_ids": torch.arange(36).view(1, 6, 6), "labels": torch.tensor(n % 4)}
        for n in range(16)
    ]
    plan = composed(EMA(), inputs="tokens")
    ((message, fix),) = faults(tmp_path, plan, Reads(*recipe.model()), {"train_dataset": texts})
    assert "['pixel_values']" in message
    assert "['attention_mask', 'input_ids', 'labels']" in message
    assert fix == "name those that are edited: fields=Fields(('input_ids',), 'labels')"
    options = {"train_dataset": texts, "fields": eval(fix.partition("fields=")[2], {"Fields": Fields})}
    trainer = hf.trainer(tmp_path, plan, Reads(*recipe.model()), options)
    trainer.train()
    assert trainer.engine.batches == 2


def test_targets_that_would_reach_the_model(tmp_path: Path) -> None:
    options = {"fields": Fields(("pixel_values",), "more.labels")}
    ((message, fix),) = faults(tmp_path, None, None, options)
    assert "'more.labels', from where they would reach the model" in message
    assert "a key of their own" in fix


def test_inputs_without_a_name_for_a_method_that_runs_the_model(tmp_path: Path) -> None:
    options = {"fields": Fields(("views.0",), "labels")}
    changes = {"remove_unused_columns": False}
    ((message, _),) = faults(tmp_path, composed(SelectiveBackprop()), None, options, **changes)
    assert message.startswith("loop-limit: selective_backprop runs the model on the inputs by their names")


def test_processes_that_do_not_know_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = hf.arguments(tmp_path)
    assert args.world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        cp.CompositionError, match=r"2 processes were started, and the Trainer knows of 1(.|\n)*use_cpu"
    ):
        CounterpointTrainer(hf.net(), args, plan=composed())


@pytest.mark.kind("7e")
def test_a_launcher_that_starts_one_process_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    hf.trainer(tmp_path, composed())
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    ((message, fix),) = faults(tmp_path)
    assert "several processes and started one" in message
    assert "torchrun --nproc_per_node" in fix


def test_every_reason_is_given_at_once(tmp_path: Path) -> None:
    options = {"compute_loss_func": nn.functional.cross_entropy}
    found = faults(tmp_path, composed(GradientClipping()), None, options, max_grad_norm=1.0, label_smoothing_factor=0.1)
    assert len(found) == 3


def test_what_the_model_lacks(tmp_path: Path) -> None:
    ((message, _),) = faults(tmp_path, composed(ManifoldMixup(module="body")))
    assert message.startswith("no-such-module: manifold_mixup mixes the output of 'body'")
