from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import counterpoint as cp
from counterpoint.core.errors import RunError
from tests.trainer.support import config, lines, weights

SCRIPT = "import json, sys, counterpoint as cp; cp.Trainer(json.loads(sys.argv[1])).fit()"


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
