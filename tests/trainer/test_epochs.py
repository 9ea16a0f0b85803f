"""What is per step, per epoch and per seed, over at least two that differ, beside numbers worked out by plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import counterpoint as cp
from counterpoint import Rng, RunError
from counterpoint.cli import main
from counterpoint.trainer.config.yaml import dump_config
from counterpoint.trainer.data.sampler import EpochSampler
from counterpoint.trainer.loop.loop import Loop
from tests.trainer.support import assert_equal, config, lines

pytestmark = pytest.mark.kind("30")

SIZE, COUNT, RATE = 16, 60, 0.3


def _examples(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def _model() -> nn.Linear:
    with torch.random.fork_rng([]):
        torch.manual_seed(4)
        return nn.Linear(5, 3)


def _trainer(folder: Path | None, **keys: Any) -> cp.Trainer:
    base = {
        "data": None,
        "model": None,
        "scheduler": "constant",
        "optimizer": {"name": "sgd", "lr": RATE, "momentum": 0.0},
    }
    train, evaluation = (torch.utils.data.TensorDataset(*_examples(*part)) for part in ((COUNT, 1), (37, 2)))
    return cp.Trainer(
        config(folder, **{**base, "max_duration": "3ep", **keys}),
        model=_model(),
        train_data=train,
        eval_data=evaluation,
    )


def _order(epoch: int) -> list[int]:
    """The permutation of an epoch of the run's seed, 3."""
    found: list[int] = Rng(3, "examples", epoch, None).permutation(COUNT).tolist()
    return found


@pytest.mark.slow
def test_metrics_are_those_of_their_epoch(tmp_path: Path) -> None:
    """Each line has the mean over the batches of its own epoch, as a loop in plain torch works it out."""
    trainer = _trainer(tmp_path / "run", data={"name": "digits", "batch_size": SIZE})
    trainer.fit()
    (inputs, targets), (eval_inputs, eval_targets) = _examples(COUNT, 1), _examples(37, 2)
    model, steps = _model(), COUNT // SIZE
    found = lines(tmp_path / "run")
    assert [(line["epoch"], line["step"]) for line in found] == [(1, steps), (2, 2 * steps), (3, 3 * steps)]
    orders = [_order(epoch) for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    for order, line in zip(orders, found, strict=True):
        losses, right = 0.0, 0
        for step in range(steps):
            rows = order[step * SIZE : (step + 1) * SIZE]
            outputs = model(inputs[rows])
            loss = nn.functional.cross_entropy(outputs, targets[rows])
            losses, right = losses + loss.item(), right + int((outputs.argmax(1) == targets[rows]).sum())
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= RATE * parameter.grad
        with torch.no_grad():
            outputs = model(eval_inputs)
        assert line["train_loss"] == pytest.approx(losses / steps, rel=1e-5)
        assert line["train_accuracy"] == pytest.approx(right / (steps * SIZE))
        assert line["evaluation_loss"] == pytest.approx(
            nn.functional.cross_entropy(outputs, eval_targets).item(), rel=1e-5
        )
        assert line["evaluation_accuracy"] == pytest.approx((outputs.argmax(1) == eval_targets).float().mean().item())
        assert line["lr"] == RATE


@pytest.mark.slow
@pytest.mark.parametrize("model", [{"name": "mlp", "hidden": 4}, {"name": "small_cnn", "width": 2}])
def test_each_seed_starts_from_weights_of_its_own(model: dict[str, Any]) -> None:
    first, again, other = (cp.Trainer(config(None, seed=seed, model=model)).model.state_dict() for seed in (1, 1, 2))
    assert_equal(first, again)
    for name, value in first.items():
        if value.is_floating_point() and value.ndim > 1:
            assert (value != other[name]).float().mean() > 0.9, name


def test_layers_draw_anew_at_each_step_and_for_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout's mask is another at each step, and the same at the same step of the same seed."""

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.linear = nn.Dropout(0.5), nn.Linear(5, 3)
            self.masks: list[tuple[bool, ...]] = []

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.masks.append(tuple((self.drop(torch.ones(40)) == 0).tolist()))
            outputs: torch.Tensor = self.linear(inputs)
            return outputs

    masks = {}
    for run, seed in (("a", 1), ("b", 1), ("c", 2)):
        model = Seen()
        keys = config(None, seed=seed, data=None, model=None, max_duration="4ba")
        data = torch.utils.data.TensorDataset(*_examples(600, 1))
        cp.Trainer(keys, model=model, train_data=data, eval_data=data).fit()
        masks[run] = model.masks
    assert len(masks["a"]) == 4
    assert masks["a"] == masks["b"]
    assert len({*masks["a"], *masks["c"]}) == 8


def test_what_is_due_is_done_at_its_steps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = Loop._save
    monkeypatch.setattr(Loop, "_save", lambda loop: (saved.append(loop.step), save(loop))[1])
    keys = {"data": {"name": "digits", "batch_size": SIZE}, "eval_every": "2ba", "checkpoint_every": "1.5ep"}
    _trainer(tmp_path / "run", **keys).fit()
    found = lines(tmp_path / "run")
    assert saved == [5, 9]
    assert [line["step"] for line in found if "evaluation_loss" in line] == [2, 4, 6, 8, 9]
    assert [line["step"] for line in found if "train_loss" in line] == [3, 6, 9]
    assert [line["epoch"] for line in found] == [1, 1, 2, 2, 3, 3]


def test_ranks_share_an_epoch_without_overlap() -> None:
    samplers = [EpochSampler(26, 4, seed=5, rank=rank, ranks=3) for rank in range(3)]
    for epoch in (0, 7):
        for sampler in samplers:
            sampler.start(epoch)
        found = [list(sampler) for sampler in samplers]
        assert [len(batches) for batches in found] == [2, 2, 2]
        keys = [key for batches in found for batch in batches for key in batch]
        assert {number for number, _ in keys} == {epoch}
        assert len({index for _, index in keys}) == 24
        wanted = Rng(5, "examples", epoch, None).permutation(26).tolist()
        assert [index for _, index in found[1][0]] == wanted[4:8]
        assert [index for _, index in found[0][1]] == wanted[12:16]


def test_changes_are_allowed_to_a_resume_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = config(tmp_path / "run", max_duration="2ba")
    with pytest.raises(RunError, match="allow_changes says how to go on with a run: give it with resume=True"):
        cp.Trainer(keys).fit(allow_changes=True)
    file = tmp_path / "run.yaml"
    file.write_text(dump_config(cp.trainer.RunConfig.parse(keys)))
    for further in ([], ["--overwrite"]):
        assert main(["train", str(file), "--allow-changes", *further]) == 2
        assert "--allow-changes says how to go on with a run: give it with --resume" in " ".join(
            capsys.readouterr().err.replace("│", " ").split()
        )
    assert not (tmp_path / "run").exists()
