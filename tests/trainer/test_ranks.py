"""Runs of two and four processes, each compared with what one process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import counterpoint as cp
from counterpoint import CheckpointError
from counterpoint.trainer.runs.checkpoint import latest_checkpoint
from tests.trainer import sharded
from tests.trainer.ranks import UNMIXED, train_uneven
from tests.trainer.support import assert_equal, config, lines, weights

COUNTS = {"two": 2, "four": 4}
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}
"""Sums of gradients in another order, in float32."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes have written what they found."""
    folder = tmp_path_factory.mktemp("ranks")
    program = [sys.executable, "-m", "tests.trainer.ranks", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr
    told = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.out")))
    ends = {"two": [0, 0], "four": [0, 0, 0, 0], "dying": [0, -9], "failing": [0, 0]}
    assert json.loads(done.stdout.splitlines()[-1]) == ends, told
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process has written what it trained."""
    folder = tmp_path_factory.mktemp("alone")
    train_uneven(folder / "means", 1)
    train_uneven(folder / "fewer", 1, algorithms=UNMIXED)
    return folder


def found(folder: Path, group: str, check: str) -> list[Any]:
    """What a check found in each process."""
    files = sorted(folder.glob(f"{group}-*.json"))
    return [json.loads(path.read_text())[check] for path in files]


def assert_close(first: Path, second: Path) -> None:
    """Two runs measured and trained the same but for rounding."""
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(other[name], value, **ROUNDING), name
    for line, expected in zip(lines(second), lines(first), strict=True):
        assert line == {key: pytest.approx(value, rel=1e-5) for key, value in expected.items()}


@pytest.mark.parametrize("run", ["means", "parts"])
@pytest.mark.parametrize("group", COUNTS)
def test_processes_train_what_one_would(group: str, run: str, folder: Path, alone: Path) -> None:
    """With class weights and ignored positions, which processes and microbatches have in uneven shares.

    The last evaluation batches are uneven too: the metrics are those of one process.
    """
    assert_close(alone / "means", folder / group / run)


def test_a_run_from_a_config(folder: Path, tmp_path: Path) -> None:
    methods = ["ema", {"name": "sam", "rho": 0.3, "every": 2}, {"name": "gradient_clipping", "threshold": 0.2}]
    cp.Trainer(config(tmp_path, max_duration="4ba", eval_every="2ba", algorithms=methods, accumulate=2)).fit()
    assert_close(tmp_path, folder / "two" / "methods")


@pytest.mark.parametrize("kind", ["whole_models", "sharded_models"])
@pytest.mark.parametrize("group", COUNTS)
def test_loops_of_ones_own_train_what_one_process_would(group: str, kind: str, folder: Path) -> None:
    """With DDP and with FSDP2: the norm spans all shards, and the average is that of the whole model."""
    ranks = found(folder, group, kind)
    for name, recipe in sharded.RECIPES.items():
        expected = sharded.train(recipe)
        for rank in ranks:
            for part, values in expected.items():
                numbers = torch.tensor(rank[name][part]), torch.tensor(values)
                assert torch.allclose(*numbers, **ROUNDING), (name, part)


@pytest.mark.parametrize("group", COUNTS)
def test_the_contract_holds_on_shards(group: str, folder: Path) -> None:
    kept, free = found(folder, group, "contract_kept"), found(folder, group, "sharded_models")
    assert [rank["weights"] for rank in kept] == [rank["sam"]["weights"] for rank in free]


@pytest.mark.parametrize("group", COUNTS)
def test_averages_are_sharded_as_parameters_are(group: str, folder: Path) -> None:
    ranks = found(folder, group, "shards_held")
    sizes = [parameter.numel() for parameter in sharded.small_model().parameters()]
    for rank in ranks:
        assert sorted(rank["average"]) == sorted(rank["parameters"])
        assert sum(rank["parameters"]) < sum(sizes) * (1.5 / COUNTS[group])
    assert sum(sum(rank["parameters"]) for rank in ranks) == sum(sizes)


@pytest.mark.parametrize("group", COUNTS)
@pytest.mark.parametrize("form", ["sharded", "whole"])
def test_states_of_a_sharded_model_are_saved(form: str, group: str, folder: Path) -> None:
    for rank in found(folder, group, "states_saved"):
        assert rank[form] == rank["through"]


@pytest.mark.parametrize("group", COUNTS)
def test_a_method_that_runs_a_sharded_model_does_so_on_all_ranks(group: str, folder: Path) -> None:
    first, *others = found(folder, group, "selected")
    assert all(other == first for other in others)


@pytest.mark.parametrize("group", COUNTS)
def test_ranks_draw_apart_unless_draws_are_shared(group: str, folder: Path) -> None:
    """By what each process prints of its draws."""
    ranks = found(folder, group, "draws")
    assert [rank["rank"] for rank in ranks] == list(range(COUNTS[group]))
    parts = [[dict(part.split(": ", 1) for part in line.split("; ")) for line in rank["lines"]] for rank in ranks]
    shared = [[step["pair_mix"] for step in steps] for steps in parts]
    own = [[step.get("cutout") for step in steps] for steps in parts]
    assert all(steps == shared[0] for steps in shared)
    assert len(set(shared[0])) == len(shared[0])
    assert len({tuple(steps) for steps in own}) == len(own)
    for step in zip(*own, strict=True):
        drawn = [draws for draws in step if draws is not None]
        assert len(set(drawn)) == len(drawn)


def test_a_run_is_gone_on_with_bit_for_bit(folder: Path) -> None:
    assert_equal(weights(folder / "two" / "through"), weights(folder / "two" / "cut"))
    assert lines(folder / "two" / "through") == lines(folder / "two" / "cut")


def test_one_process_goes_on_where_two_began(folder: Path, alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_uneven(folder / "two" / "fewer", 1, resume=True, algorithms=UNMIXED)
    assert "resumed after step 4 (begun by 2 processes)" in capsys.readouterr().out
    assert_close(alone / "fewer", folder / "two" / "fewer")


def test_another_number_of_processes_is_refused_where_training_would_differ(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="processes: were 2, are 1: pair_mix would get other draws, or act among"):
        train_uneven(folder / "two" / "means", 1, resume=True)
    keys = {"data": {"name": "digits", "batch_size": 32}, "model": {"name": "small_cnn", "width": 4}}
    keys |= {"algorithms": ["mixup", {"name": "cutout", "p": 0.5}, {"name": "ema", "half_life": 4}]}
    keys |= {"max_duration": "6ba", "eval_every": "3ba", "checkpoint_every": "2ba"}
    with pytest.raises(CheckpointError) as error:
        cp.Trainer(config(folder / "two" / "through", **keys)).fit(resume=True)
    reasons = [line for line in str(error.value).splitlines() if "processes: were 2, are 1" in line]
    assert [line.partition(": were 2, are 1: ")[2] for line in reasons] == [
        "the global batch was 2 x 32 = 64 examples, and is 1 x 32 = 32",
        "cutout, mixup would get other draws, or act among other samples",
        "batch norm (3 layers) would compute on other batches",
    ]


@pytest.mark.parametrize("group", COUNTS)
def test_an_evaluation_with_fewer_examples_than_processes(group: str, folder: Path) -> None:
    ranks = found(folder, group, "few_to_evaluate")
    assert all(rank == ranks[0] for rank in ranks)
    count = COUNTS[group] - 1
    assert ranks[0]["evaluation_accuracy"] in [pytest.approx(right / count) for right in range(count + 1)]


def test_only_the_first_process_prints(folder: Path) -> None:
    for group, count in COUNTS.items():
        assert (folder / f"{group}-0.out").read_text().count("step 8/8") >= 2
        for rank in range(1, count):
            assert (folder / f"{group}-{rank}.out").read_text() == ""


def test_processes_that_differ_stop_before_anything_is_written(folder: Path) -> None:
    for rank in found(folder, "two", "differing"):
        assert rank["type"] == "RunError"
        assert "differ in the plan that they found: process 0 " in rank["error"]
    assert not (folder / "two" / "differing" / "plan.json").exists()


def test_a_folder_that_is_not_shared_is_noticed(folder: Path) -> None:
    for rank in found(folder, "two", "elsewhere"):
        assert rank["type"] == "RunError"
        assert "process 0 the checkpoint of step 4, process 1 no checkpoint" in rank["error"]
        assert "run_dir on a file system that they share" in rank["error"]


def test_a_process_that_dies_ends_the_run_at_once(folder: Path) -> None:
    (rank,) = found(folder, "dying", "dying")
    assert rank["type"] == "RunError"
    kept = folder / "dying" / "dying" / "checkpoints"
    assert "process 0 of 2 ends, because another process of this run has ended" in rank["error"]
    assert f"the last checkpoint is {kept / 'step-00000004'}" in rank["error"]
    assert rank["seconds"] < 60
    checkpoint, broken = latest_checkpoint(kept)
    assert checkpoint is not None
    assert (checkpoint.data["step"], broken) == (4, [])


def test_a_process_that_fails_says_why_and_ends_the_others(folder: Path) -> None:
    first, second = found(folder, "failing", "failing")
    assert second["type"] == "NonFiniteLossError"
    assert "step 0: the loss is nan" in second["error"]
    assert first["type"] == "RunError"
    assert "the output of that one says why; there is no checkpoint to go back to" in first["error"]
