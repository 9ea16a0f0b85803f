"""Faults put into a composition on purpose: at least one for every code that a list, its facts or a model can cause."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import nn

import counterpoint as cp
from counterpoint.algorithms import (
    EMA,
    SAM,
    SWA,
    BlurPool,
    CutMix,
    CutOut,
    GradientClipping,
    LabelSmoothing,
    ManifoldMixup,
    MixUp,
    Normalize,
    OneOf,
    SelectiveBackprop,
    TrivialAugment,
)
from tests.laws.draft import Draft, altered

NOT_BY_A_LIST = frozenset({"bad-config", "broken-plugin", "loop-limit", "loss-outputs"})
"""Codes that only a config, an installation, another loop, or the outputs of a model cause."""
BY_THE_MODEL = frozenset({"late-surgery", "no-such-module", "nothing-to-replace"})
"""Codes that are found when the model is known."""

Mistake = Callable[[Random, Draft], object]


class Crowd(cp.Algorithm[None], name="crowd"):
    """A method for large batches."""

    min_batch = 64

    @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RESCALE)
    def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
        return batch


def an_unknown_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.sum()


def add(*algorithms: cp.Algorithm[Any], **facts: Any) -> Mistake:
    """Return the mistake of listing methods, under these facts."""

    def mistake(dice: Random, draft: Draft) -> None:
        draft.facts |= facts
        for algorithm in algorithms:
            draft.add(algorithm)

    return mistake


def one(*mistakes: Mistake) -> Mistake:
    """Return a mistake that is one of several."""
    return lambda dice, draft: dice.choice(mistakes)(dice, draft)


def item(*items: object) -> Mistake:
    """Return the mistake of listing one of these, which are no algorithms."""
    return lambda dice, draft: draft.listed.insert(dice.randint(0, len(draft.listed)), dice.choice(items))


def same_id(dice: Random, draft: Draft) -> None:
    draft.add(CutOut())
    one = dice.choice([item for item in draft.listed if isinstance(item, cp.Algorithm)])
    draft.listed.append(altered(dice.choice([CutOut(length=0.25), MixUp(), EMA()]), id=one.identity))


def unknown_reference(dice: Random, draft: Draft) -> None:
    draft.add(CutOut(after="nobody") if dice.random() < 0.5 else MixUp(before=("nobody",)))


def impossible_wish(dice: Random, draft: Draft) -> None:
    if dice.random() < 0.4:
        draft.listed.append(CutOut(id="mine", after="mine"))
    elif dice.random() < 0.5:
        draft.listed += [EMA(id="average"), CutOut(id="mine", before="average")]
    else:
        draft.listed += [CutOut(id="mine", after="yours"), CutOut(id="yours", after="mine")]


LARGE, SMALL = CutOut(id="large"), CutOut(id="small", fill=1.0)
MISTAKES: dict[str, Mistake] = {
    "unknown-algorithm": item("mixpu", "cut_out", {"name": "nothing", "alpha": 1.0}),
    "bad-setting": one(
        item({"name": "mixup", "alpha": -1.0, "id": "wrong"}, {"name": "cutout", "lenght": 0.5, "id": "wrong"}),
        add(task="multiclass", loss={"name": "cross_entropy", "weight": [1.0] * 7}),
        add(loss={"name": "focal", "gamma": -1}),
    ),
    "not-an-algorithm": item({"alpha": 0.2}, 7, None),
    "duplicate-id": same_id,
    "unknown-reference": unknown_reference,
    "task-unstated": one(add(task=None), add(task="multiclas")),
    "task-unsupported": one(add(LabelSmoothing(), task="regression"), add(TrivialAugment(), task="segmentation")),
    "inputs-unknown": add(inputs="pixels"),
    "bad-argument": one(add(num_classes="3"), add(batch_size=0), add(batch_size=2, microbatches=3), add(contract="no")),
    "classes-unstated": add(ManifoldMixup(module="stem"), task="multiclass", num_classes=None),
    "needs-unmet": one(add(CutOut(), inputs="features"), add(Normalize(mean=[0.5], std=[0.2]), inputs="normalized")),
    "loss-targets": one(add(task="multiclass", loss=nn.MSELoss()), add(task="regression", loss=nn.NLLLoss())),
    "model-inputs": add(model_inputs={"tokens"}),
    "loss-unknown": add(loss=an_unknown_loss),
    "two-mixers": one(add(MixUp(), CutMix()), add(ManifoldMixup(module="head"), MixUp(alpha=1.0))),
    "double-smoothing": one(
        add(LabelSmoothing(), LabelSmoothing(smoothing=0.2)),
        add(LabelSmoothing(), task="multiclass", loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
    ),
    "two-owners": one(add(EMA(), SWA(start="0ba")), add(SAM(), SAM(rho=0.1)), add(BlurPool(), BlurPool())),
    "cyclic-order": add(SelectiveBackprop(), SelectiveBackprop(keep=0.75)),
    "wish-impossible": impossible_wish,
    "ambiguous-order": add(LARGE, SMALL, strict_order=True),
    "branch-order": add(OneOf(algorithms=[TrivialAugment(), MixUp()]), CutOut()),
    "branch-hook": one(add(OneOf(algorithms=[GradientClipping(), CutOut()])), add(OneOf(algorithms=[EMA()]))),
    "conditional-kind": one(
        add(Normalize(mean=[0.5], std=[0.2], p=0.5)), add(OneOf(algorithms=[Normalize(mean=[0.5], std=[0.2])]))
    ),
    "schedule-unused": add(BlurPool(p=0.5)),
    "duration-unknown": one(
        add(CutOut(end="0.5dur"), max_duration=None),
        add(CutOut(end="2ep"), steps_per_epoch=None),
        add(max_duration="0.5dur"),
        add(max_duration="ten"),
    ),
    "empty-window": one(add(CutOut(start="2ba", end="1ba")), add(EMA(start="1ba", end="1ba")), add(EMA(start="9ep"))),
    "never-acts": one(add(CutOut(p=0.0)), add(OneOf(algorithms=[CutOut(), CutOut(id="never")], weights=[1, 0]))),
    "batch-too-small": add(Crowd()),
    "microbatches": add(ManifoldMixup(module="stem"), microbatches=2),
    "no-sample-losses": add(SelectiveBackprop(), loss=None),
    "no-such-module": add(ManifoldMixup(module="nowhere"), microbatches=1),
    "nothing-to-replace": add(BlurPool(convolutions=False, max_pools=False)),
    "late-surgery": add(BlurPool()),
}
"""A mistake for each code, after which ``compose``, or the engine given a model, must find that code."""
