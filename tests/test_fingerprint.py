"""The fingerprint of a plan is the same on every machine, in every process and Python version, and follows the plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import counterpoint as cp
from counterpoint.core import Algorithm
from counterpoint.plugins import ALGORITHMS
from tests.fingerprints import PLANS, fingerprints

# Made once. A change here means that runs which were begun before it cannot be resumed without --allow-changes.
GOLDEN = {
    "nothing": "c843889f78e48065",
    "blurpool": "60fc799097b48f6f",
    "cutmix": "b9149e84d22f938d",
    "cutout": "3b2552707068179e",
    "ema": "6b415a0c6b5d5f72",
    "gradient_clipping": "0435d2e1e7b0a9a8",
    "label_smoothing": "f597710aa2393bc8",
    "manifold_mixup": "cc94ed633f317ee2",
    "mixup": "7b3e289ee20f9cb5",
    "normalize": "b252c559abfbafa9",
    "one_of": "e7a914d0cac041a9",
    "sam": "2062a632af2851c7",
    "selective_backprop": "eaa4c107183b0928",
    "swa": "b15bfb68637a2831",
    "trivial_augment": "85323f31c6dc34cb",
    "many": "b5a626e866b61b60",
    "segmentation": "020c88abb20fa2ea",
    "multilabel": "e21b15b75d7d87a7",
    "regression": "af13a89dd20d8eaf",
}
PROCESSES: dict[str, dict[str, str]] = {
    "hash seed 1, plain C": {"PYTHONHASHSEED": "1", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "hash seed 4242, UTF-8": {"PYTHONHASHSEED": "4242", "LC_ALL": "C.UTF-8", "TZ": "Asia/Kathmandu"},
}


def test_every_registered_method_has_a_plan() -> None:
    built_in = {entry.name for entry in ALGORITHMS.entries() if entry.package == "counterpoint"}
    assert built_in <= PLANS.keys()
    for name in built_in:
        listed, facts = PLANS[name]
        assert [member.algorithm.name for member in cp.compose(listed, **facts).members] == [name]


def test_fingerprints_are_those_written_down() -> None:
    assert fingerprints() == GOLDEN, "print those of today by `python -m tests.fingerprints`"
    assert len({*GOLDEN.values()}) == len(GOLDEN)


@pytest.mark.parametrize("process", PROCESSES)
def test_fingerprints_are_the_same_in_another_process(process: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fingerprints"],
        env={**os.environ, **PROCESSES[process]},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == GOLDEN


def test_settings_that_are_sets_are_written_in_one_order() -> None:
    class Tagged(Algorithm[None], name="tagged"):
        tags: frozenset[str] = frozenset()

        @cp.transform(inputs=cp.CONTINUOUS, law=cp.Law.RECOLOR)
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch

    words = [f"word{number}" for number in range(50)]
    tagged = Tagged(tags=frozenset(words))
    assert tagged.component()["tags"] == tagged.settings()["tags"] == sorted(words)
    assert tagged.model_dump()["tags"] == frozenset(words)
    written: list[Any] = cp.compose([tagged], task="multiclass", num_classes=3).to_data()["algorithms"]
    assert written[0]["settings"]["tags"] == sorted(words)
