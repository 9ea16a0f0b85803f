"""Compare speed with other libraries, and say which goals hold: ``python -m benchmarks``.

It takes about five minutes on two cores. The libraries come from ``benchmarks/requirements.txt``; one that is not
installed is named as absent. ``--only`` runs some parts: chains, singles, loops.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from benchmarks import batches, loops
from benchmarks.contenders import peers

KEPT_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 28)}
"""glibc settings under which freed memory stays with the process, so that it is not handed out page by page again."""

PARTS = ("chains", "singles", "loops")
MACHINE = Path("/proc/cpuinfo")


def machine() -> str:
    """Say what this is measured on."""
    lines = MACHINE.read_text().splitlines() if MACHINE.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")] or [platform.processor()]
    load = os.getloadavg()[0]
    return (
        f"{models[0]}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, load {load:.1f}"
    )


def main() -> None:
    """Run the parts, print their tables, then every goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--kept-pages", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    found, absent = peers()
    if not given.kept_pages:
        print(machine())
        print("against:", ", ".join(peer.name for peer in found) or "nobody")
        for name, why in absent.items():
            print(f"absent: {name} ({why})")
    goals: list[batches.Goal] = []
    if "chains" in given.only:
        how = "page faults taken away" if given.kept_pages else "as users run it"
        goals += batches.chains(found, 128, 224, how)
        goals += [] if given.kept_pages else batches.chains(found, 512, 32, how)
    if "singles" in given.only:
        goals += batches.singles(found, 128, 224) + batches.singles(found, 512, 32)
    if "loops" in given.only:
        goals += loops.measure()
    if not given.kept_pages:
        print("\n| what | goal | measured | |\n| --- | --- | --- | --- |")
    for goal in goals:
        print(goal.line)
    sys.stdout.flush()
    if "chains" in given.only and not given.kept_pages:
        command = [sys.executable, "-m", "benchmarks", "--only", "chains", "--kept-pages"]
        subprocess.run(command, env=os.environ | KEPT_PAGES, check=True)


if __name__ == "__main__":
    main()
