from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint import NonFiniteLossError
from counterpoint.trainer.data.dataset import DataSpec
from counterpoint.trainer.loop.nonfinite import LossWatch, describe_draws
from tests.trainer.support import blobs, config


class Pair(NamedTuple):
    lam: Tensor
    perm: Tensor


@dataclass
class Boxes:
    boxes: Tensor
    count: int


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("every", [1, 3, 16])
def test_the_first_wrong_step_is_named(value: float, every: int) -> None:
    watch = LossWatch(every, go_back="go back")

    def run() -> None:
        for step in range(10, 18):
            watch.add(step, torch.tensor(value if step in (14, 15) else 0.5), {"mixup": step})
        watch.check()

    with pytest.raises(
        NonFiniteLossError, match=rf"step 14: the loss is {value}; draws of this step: mixup: 14\. .*go back"
    ):
        run()


def test_the_last_loss_is_kept() -> None:
    watch = LossWatch(2)
    watch.check()
    for step, loss in enumerate([0.5, 0.25, 0.125]):
        watch.add(step, torch.tensor(loss), {})
    assert watch.last == 0.25
    watch.check()
    assert watch.last == 0.125


def test_draws_are_a_line() -> None:
    draws = {
        "mixup": Pair(torch.tensor(0.25), torch.arange(100)),
        "cutout": Boxes(torch.zeros(2, 2, dtype=torch.int64), 3),
        "one_of": "mixup",
        "pair": (1, torch.tensor([2.0])),
    }
    assert describe_draws(draws) == (
        "mixup: lam 0.25, perm [0, 1, 2, 3, 4, 5, 6, 7, …] of shape (100,); "
        "cutout: boxes [[0, 0], [0, 0]], count 3; one_of: mixup; pair: 0 1, 1 [2.0]"
    )
    assert describe_draws({}) == "none"


@pytest.mark.kind("30")
def test_broken_weights_are_named_with_the_step_that_broke_them() -> None:
    """Two of three layers, of which the frozen one is left alone; of many at most eight are named."""
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))
    watch = LossWatch(go_back="go back")
    watch.check_weights(7, model)
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
        model[2].bias.fill_(float("-inf"))
    with pytest.raises(
        NonFiniteLossError, match=r"step 6: its update made weights NaN or infinite: 0\.weight, 2\.bias\. .*go back"
    ):
        watch.check_weights(7, model)
    model[0].requires_grad_(False)
    with pytest.raises(NonFiniteLossError, match=r"infinite: 2\.bias\. "):
        watch.check_weights(7, model)
    many = nn.Sequential(*(nn.Linear(1, 1) for _ in range(5)))
    for value in many.parameters():
        nn.init.constant_(value, float("inf"))
    with pytest.raises(NonFiniteLossError, match=r"infinite: 0\.weight, .*, 3\.bias\. "):
        watch.check_weights(7, many)


@pytest.mark.kind("8")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_named_and_no_lower_learning_rate(value: float) -> None:
    inputs = torch.zeros(5, 2, 3)
    inputs[1, 0, 2] = inputs[4, 1, 0] = value
    with pytest.raises(NonFiniteLossError, match=r"in 2 of 5 samples \(number 1, 4, counted from 0\)") as raised:
        LossWatch().add(3, torch.tensor(float("nan")), {}, inputs)
    assert "optimizer.lr" not in str(raised.value)
    with pytest.raises(NonFiniteLossError, match=r"A lower optimizer\.lr"):
        LossWatch().add(3, torch.tensor(float("nan")), {}, torch.zeros(5, 2, 3))


@pytest.mark.kind("8")
def test_the_trainer_names_samples_that_are_not_finite(tmp_path: Path) -> None:
    data = blobs(32)
    data.tensors[0][:, 0] = float("nan")
    trainer = cp.Trainer(
        config(tmp_path / "run", data=None, max_duration="1ep"),
        batch_size=16,
        train_data=data,
        eval_data=blobs(8),
        spec=DataSpec("multiclass", "features", tuple(data.tensors[0].shape[1:]), 3),
    )
    with pytest.raises(NonFiniteLossError, match=r"samples \(number 0, 1, 2, .*remove such examples from the data"):
        trainer.fit()
