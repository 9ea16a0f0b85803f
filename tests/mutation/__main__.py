"""Try a sample of mutants, and write docs/mutation.md: ``python -m tests.mutation``.

Needs ``pip install -r tests/mutation/requirements.txt``. The first run measures which tests run which lines, which
takes twice as long as the suite; ``--renew`` measures again. Everything runs on a copy of the working tree.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from tests.mutation.cover import Cover, measure
from tests.mutation.mutants import AREAS, ROOT, TREE, Mutant, files, sample
from tests.mutation.page import Outcome, page
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
    outcomes = []
    for mutant in [mutant for area in given.areas for mutant in sample(area, given.sample, given.seed, given.only)]:
        outcomes.append(Outcome(mutant, _try(TREE, mutant, cover)))
        by = outcomes[-1].by
        print(f"{mutant.file}:{mutant.line} {mutant.operator}: {by}", flush=True)
        if by == NOTHING:
            print(mutant.diff(), flush=True)
        (FOLDER / "outcomes.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    if not given.only:
        (ROOT / "docs" / "mutation.md").write_text(
            page(outcomes, given.seed, version("counterpoint"), given.tests), encoding="utf-8"
        )
    noticed = sum(outcome.by != NOTHING for outcome in outcomes)
    print(f"{noticed} of {len(outcomes)} mutants noticed")
    return int(noticed < given.least / 100 * len(outcomes))


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
    kept = FOLDER / f"cover-{'+'.join(tests).replace('/', '.')}.json"
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
