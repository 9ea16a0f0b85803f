"""Try a sample of mutants, and write docs/mutation.md: ``python -m tests.mutation``.

Needs ``pip install -r tests/mutation/requirements.txt``. The first run measures which tests run which lines, which
takes twice as long as the suite; ``--renew`` measures again. Everything runs on a copy of the working tree.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from tests.mutation.cover import Cover, measure
from tests.mutation.mutants import AREAS, ROOT, TREE, Mutant, files, sample
from tests.mutation.page import Outcome, Run, page
from tests.mutation.trial import NOTHING, OPTIONS, forked, noticed_by

FOLDER = TREE.parent
HOUR = 3600.0
SHARED = ("torch", "torch._dynamo", "lightning", "transformers", "accelerate", "torchmetrics")


def main() -> int:
    """Draw, try, print and write; return 1 where fewer are noticed than ``--least``."""
    given = _arguments()
    for name in SHARED:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)
    _copy(TREE)
    cover = _cover(TREE, given.tests, given.renew)
    runs = {
        area: Run(given.seed, given.tests, _outcomes(sample(area, given.sample, given.seed, given.only), cover))
        for area in given.areas
    }
    if not given.only:
        _keep(runs)
    outcomes = [outcome for run in runs.values() for outcome in run.counted]
    noticed = sum(outcome.by != NOTHING for outcome in outcomes)
    print(f"{noticed} of {len(outcomes)} mutants noticed")
    return int(noticed < given.least / 100 * len(outcomes))


def _outcomes(mutants: list[Mutant], cover: Cover) -> list[Outcome]:
    """Try mutants one after another, and print what noticed each."""
    found = []
    for mutant in mutants:
        found.append(Outcome(mutant, _try(TREE, mutant, cover), mutant.diff()))
        print(f"{mutant.file}:{mutant.line} {mutant.operator}: {found[-1].by}", flush=True)
        if found[-1].by == NOTHING:
            print(found[-1].change, flush=True)
    return found


def _keep(runs: dict[str, Run]) -> None:
    """Renew the page; areas that were not tried now stay as they were in the last run of this folder."""
    path = FOLDER / "runs.json"
    kept = TypeAdapter(dict[str, Run])
    runs = {**(kept.validate_json(path.read_bytes()) if path.exists() else {}), **runs}
    path.write_bytes(kept.dump_json(runs, indent=1))
    (ROOT / "docs" / "mutation.md").write_text(page(runs, version("counterpoint")), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=100, help="mutants of each area (100)")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn (0)")
    parser.add_argument("--areas", nargs="+", choices=AREAS, default=list(AREAS))
    parser.add_argument("--only", default="", help="files whose path holds this; the page is not written")
    parser.add_argument("--tests", nargs="+", default=["tests", "counterpoint"], help="tests to choose from")
    parser.add_argument("--renew", action="store_true", help="measure again which tests run which lines")
    parser.add_argument("--least", type=float, default=90.0, help="percentage that must be noticed (90)")
    return parser.parse_args()


def _copy(tree: Path) -> None:
    """Bring the copy of the working tree up to date: what git tracks or would add; compiled files stay."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}
    for path in tree.rglob("*"):
        if path.is_file() and path.suffix != ".pyc" and str(path.relative_to(tree)) not in names:
            path.unlink()
    for name in names:
        if not (tree / name).exists() or (tree / name).read_bytes() != (ROOT / name).read_bytes():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def _cover(tree: Path, tests: list[str], renew: bool) -> Cover:
    kept = FOLDER / f"cover-{sha256(' '.join(tests).encode()).hexdigest()[:16]}.json"
    if renew or not kept.exists():
        options = [option for option in OPTIONS if option != "-x"]
        every = [file for area in AREAS for file in files(area)]

        def work() -> str:
            measure(tree, every, tests, options).save(kept)
            return ""

        forked(work, tree, HOUR)
    return Cover.load(kept)


def _try(tree: Path, mutant: Mutant, cover: Cover) -> str:
    code = mutant.code()
    tests = cover.tests_of(mutant.file, mutant.line, mutant.imported)
    if code is None or not tests:
        return NOTHING
    path = tree / mutant.file
    kept = shutil.copy2(path, FOLDER / "unchanged.py")
    path.write_text(code, encoding="utf-8")
    try:
        usual = sum(cover.seconds[cover.tests.index(test)] for test in tests)
        return noticed_by(tree, tests, 60 + 5 * usual)
    finally:
        shutil.copy2(kept, path)


if __name__ == "__main__":
    sys.exit(main())
