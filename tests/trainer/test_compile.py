"""A run with a compiled plan trains as one without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import counterpoint as cp
from tests.trainer.support import METHODS, config, weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")


@pytest.mark.slow
def test_a_compiled_run_trains_as_an_eager_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch._dynamo.utils.counters.clear()
    runs = {}
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        cp.Trainer(config(folder, algorithms=METHODS, compile=compiled)).fit()
        runs[compiled] = weights(folder)
    torch.testing.assert_close(runs[True], runs[False], rtol=1e-3, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # with CutOut, and without
    assert "compiling the plan" in capsys.readouterr().out
