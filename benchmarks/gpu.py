r"""One run for a GPU machine that has torch, timm and torchvision: speed against others, and what must hold there.

Such a machine may have no network, and need not have this package installed. Bring the two packages that it needs
more than torch, for Python 3.12 on Linux of x86_64, in the folder ``wheels/``, which git ignores::

    pip download --only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels pydantic stevedore

and there, in the root of the repository (it takes a few minutes)::

    pip install --no-index --find-links wheels pydantic stevedore && python -m benchmarks.gpu --out "$OUT"

It prints tables and goals, and writes all numbers into ``gpu.json`` in the folder given. A section that fails is
reported, and the others go on; then the exit status is 1. ``--device cpu --small`` tries the whole on a machine without
a GPU, in seconds: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.batches import Goal
from benchmarks.gpu_chain import Result, Setup, chain_kernels, time_chain
from benchmarks.gpu_checks import count_recompiles, replay_graph, run_unwaited, same_as_the_host

__all__ = ["main"]

SECTIONS: dict[str, Callable[[Setup], Result]] = {
    "chain": time_chain,
    "no waiting": run_unwaited,
    "graph": replay_graph,
    "recompiles": count_recompiles,
    "equality": same_as_the_host,
    "kernels": chain_kernels,
}


def machine(device: torch.device) -> dict[str, str]:
    """Say what this is measured on."""
    found = {"torch": torch.__version__, "python": sys.version.split()[0], "device": "CPU", "driver": "none"}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            found["driver"] = subprocess.run(query, capture_output=True, check=True, text=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError) as error:
            found["driver"] = f"unknown ({error})"
    return found


def measure(setup: Setup, out: Path | None) -> dict[str, Any]:
    """Run every section, print what it finds, and return it; it is written down after each, whatever the next does."""
    found: dict[str, Any] = {"machine": machine(setup.device), "sections": {}, "failed": {}, "goals": []}
    print(", ".join(f"{what} {which}" for what, which in found["machine"].items()))
    goals: list[Goal] = []
    for title, section in SECTIONS.items():
        began = time.perf_counter()
        try:
            found["sections"][title], reached = section(setup)
            goals += reached
        except Exception as error:  # noqa: BLE001 - one failure must not lose the others' results
            found["failed"][title] = traceback.format_exc()
            print(f"\nFAILED: {title}: {type(error).__name__}: {error}")
        print(f"\n({title}: {time.perf_counter() - began:.0f} s)", flush=True)
        found["goals"] = [
            {"what": goal.what, "aim": goal.aim, "found": goal.found, "line": goal.line} for goal in goals
        ]
        if out is not None:
            (out / "gpu.json").write_text(json.dumps(found, indent=2) + "\n")
    print("\n| what | goal | measured | |\n| --- | --- | --- | --- |")
    print("\n".join(goal.line for goal in goals))
    for title, trace in found["failed"].items():
        print(f"FAILED: {title}: {trace.strip().splitlines()[-1]}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and return 1 if a section failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--small", action="store_true", help="few and small batches, to try the program")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, help="folder for gpu.json")
    given = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("error", message="the plan cannot be compiled")  # it would be timed step by step
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    setup = Setup(given.device, backend=given.backend)
    if given.small:
        setup = replace(setup, count=16, side=32, copied=1 << 20, rounds=3, steps=20)
    return 1 if measure(setup, given.out)["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
