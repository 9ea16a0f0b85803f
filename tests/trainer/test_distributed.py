from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import counterpoint as cp
from counterpoint import RunError
from counterpoint.trainer.loop.distributed import check_count
from counterpoint.trainer.runs.checkpoint import latest_checkpoint
from tests.trainer.support import assert_equal, config, lines, weights

DIES = """
import os, signal, sys
import counterpoint as cp
from counterpoint.trainer.loop.loop import Loop

trained = Loop._train


def dying(self, *batch):
    if self.step == 37 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    trained(self, *batch)


Loop._train = dying
cp.Trainer(sys.argv[1]).fit()
"""
SCRIPT = "import json, sys, counterpoint as cp; cp.Trainer(json.loads(sys.argv[1])).fit()"


@pytest.mark.slow
def test_two_processes_train_what_one_would(tmp_path: Path) -> None:
    """On halves of the same batches, with gradients averaged, the weights are the same but for rounding."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    methods = ["ema", {"name": "sam", "rho": 0.3, "every": 2}, {"name": "gradient_clipping", "threshold": 0.2}]
    keys = {"max_duration": "6ba", "eval_every": "3ba", "algorithms": methods, "accumulate": 2}
    two = config(tmp_path / "two", data={"name": "digits", "batch_size": 64}, **keys)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([*launch, json.dumps(two)], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 6/6") == 1  # one process tells

    cp.Trainer(config(tmp_path / "one", **keys)).fit()
    found = weights(tmp_path / "two")
    for name, value in weights(tmp_path / "one").items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-6), name
    for one, other in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert {key: pytest.approx(value, rel=1e-5) for key, value in one.items()} == other


def test_processes_that_do_not_know_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match=r"2 processes were started.*knows of 1.*ACCELERATE_USE_CPU=true"):
        cp.Trainer(config(None))


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, "Slurm started 4 tasks.*torchrun, or unset SLURM_STEP_NUM_TASKS"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "MPI started 2 tasks"),
        ({"ACCELERATE_DYNAMO_MODE": "default", "MASTER_ADDR": "127.0.0.1"}, "`accelerate launch` was asked for more"),
        ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP asks for FSDP.*in a loop of your own, with Engine"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "asks for DeepSpeed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_launcher_asks_for_and_one_process_cannot_give(
    variables: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=told):
        cp.Trainer(config(None))


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        {"ACCELERATE_MIXED_PRECISION": "bf16", "MASTER_ADDR": "127.0.0.1"},
        {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"},
        {"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "1", "MASTER_ADDR": "host"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_one_process_where_one_was_asked_for(variables: dict[str, str]) -> None:
    check_count(1, variables)


def test_several_processes_that_know_of_each_other() -> None:
    check_count(4, {"WORLD_SIZE": "4", "SLURM_STEP_NUM_TASKS": "2", "MASTER_ADDR": "host"})
    check_count(4, {"OMPI_COMM_WORLD_SIZE": "4"})


@pytest.mark.slow
def test_the_loss_is_not_divided_by_a_launchers_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"max_duration": "2ba"}
    cp.Trainer(config(tmp_path / "plain", **keys)).fit()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    cp.Trainer(config(tmp_path / "four", **keys)).fit()
    assert_equal(weights(tmp_path / "plain"), weights(tmp_path / "four"))


def _started(command: list[str], run: dict[str, object], folder: Path, **variables: str) -> tuple[int, str]:
    """How ``counterpoint train`` of a config ends, started by a launcher."""
    path = folder / "run.yaml"
    path.write_text(json.dumps(run))
    program = [sys.executable, "-m", *command, "-m", "counterpoint.cli", "train", str(path), "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **variables}
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, env=environment)
    return done.returncode, done.stdout + done.stderr


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "variables", "told"),
    [
        (TORCHRUN, {}, "2 processes were started, and Accelerate knows of 1"),
        (["accelerate.commands.launch", "--cpu", "--num_processes", "2"], {}, "`accelerate launch` was asked for more"),
        (TORCHRUN, {"ACCELERATE_USE_CPU": "true"}, "step 2/2"),
        (
            ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
            {"ACCELERATE_USE_CPU": "true"},
            "2 processes: the global batch is 2 x 64 = 128 examples",
        ),
    ],
    ids=["torchrun", "accelerate", "torchrun on CPUs", "accelerate on CPUs"],
)
def test_what_launchers_start(command: list[str], variables: dict[str, str], told: str, tmp_path: Path) -> None:
    keys = {"max_duration": "2ba", "data": {"name": "digits", "batch_size": 64}}
    code, output = _started(command, config(tmp_path / "run", **keys), tmp_path, **variables)
    assert told in output
    assert (code == 0) == bool(variables), output
    assert (tmp_path / "run" / "model.safetensors").exists() == bool(variables)


@pytest.mark.long
def test_a_killed_process_ends_the_run_that_is_then_gone_on_with(tmp_path: Path) -> None:
    """By torchrun, which starts nothing anew here: the run resumes bit for bit."""
    keys = {"data": {"name": "digits", "batch_size": 32}, "max_duration": "3ep", "checkpoint_every": "10ba"}
    methods = ["mixup", {"name": "cutout", "p": 0.5}, "ema"]
    through = config(tmp_path / "through", algorithms=methods, **keys)
    code, output = _started(TORCHRUN, through, tmp_path, ACCELERATE_USE_CPU="true")
    assert code == 0, output

    cut = config(tmp_path / "cut", algorithms=methods, **keys)
    script, path = tmp_path / "dies.py", tmp_path / "cut.yaml"
    script.write_text(DIES)
    path.write_text(json.dumps(cut))
    launch = [sys.executable, "-m", *TORCHRUN, str(script), str(path)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(launch, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    checkpoint, broken = latest_checkpoint(tmp_path / "cut" / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.data["step"], broken) == (30, [])

    code, output = _started(TORCHRUN, cut, tmp_path, ACCELERATE_USE_CPU="true")
    assert code == 0, output
    assert "resumed after step 30" in output
    assert_equal(weights(tmp_path / "through"), weights(tmp_path / "cut"))
