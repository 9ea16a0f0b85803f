"""Wrong variants of the rules and conversions: some test must catch each. Run it with ``python -m tests.laws.mutants``.

Each variant is one edit of a copy of the tree, on which the tests that concern its file are run, up to the first that
fails. Before that, all of them must pass on the copy as it is.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from contextlib import redirect_stdout
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
COMMUTE, WIRING, ORDER = "core/commute.py", "core/wiring.py", "core/order.py"
CHECKER, CHECKS, RUN = "core/checker.py", "core/checks.py", "core/run.py"
LAWS, TARGETS = "tests/laws/test_laws.py", "tests/test_composition_targets.py"
ORDERED = ("tests/core/test_order.py", "tests/core/test_checker.py", "tests/laws/test_synthetic.py", TARGETS, LAWS)
TESTS = {
    COMMUTE: ("tests/core/test_commute.py", *ORDERED),
    WIRING: ORDERED,
    ORDER: ORDERED,
    CHECKER: ORDERED,
    CHECKS: ORDERED,
    "core/member.py": ORDERED,
    "core/mend.py": ("tests/core/test_remedy.py", LAWS),
    "core/conversions.py": (TARGETS, LAWS),
    RUN: ("tests/core/test_draws.py", TARGETS, LAWS),
    "losses/classes.py": ("tests/losses/test_cross_entropy.py", LAWS),
    "losses/cross_entropy.py": ("tests/losses/test_cross_entropy.py", LAWS),
    "algorithms/label_smoothing.py": (TARGETS, LAWS),
    "algorithms/mixup.py": (TARGETS, LAWS),
    "algorithms/cutmix.py": (TARGETS, LAWS),
    "algorithms/manifold_mixup.py": (LAWS,),
    "algorithms/selective_backprop.py": (LAWS,),
}
"""The tests of the normal suite that must catch a variant of a file, the quickest first."""

MUTANTS: tuple[tuple[str, str, str, str], ...] = (
    ("acts against varies ignored", COMMUTE, "first.acts & (second.acts | second.varies)", "first.acts & second.acts"),
    ("acts against varies ignored, other side", COMMUTE, "second.acts & (first.acts | first.varies)", "False"),
    ("everything commutes", COMMUTE, "    return all(edits_commute(", "    return True or all(edits_commute("),
    ("nothing commutes", COMMUTE, "    return all(edits_commute(", "    return False and all(edits_commute("),
    ("nonlinear meets averages", COMMUTE, "return other is Form.SELECT", "return other <= Form.AVERAGE"),
    ("offsets meet linear maps", COMMUTE, "other <= Form.AVERAGE", "other <= Form.LINEAR"),
    ("unequal fills commute", COMMUTE, "first.fills == second.fills", "second.fills is not None"),
    ("reads ignored", COMMUTE, "first.reads & second.edits.keys() or", "False or"),
    ("mixing before single samples", COMMUTE, "not effect.across_samples", "effect.across_samples"),
    ("filling first", COMMUTE, "lambda effect: not effect.fills", "lambda effect: effect.fills"),
    ("resizing last", COMMUTE, "lambda effect: effect.resizes", "lambda effect: not effect.resizes"),
    ("hooks always commute", COMMUTE, "return not (first.writes", "return True or not (first.writes"),
    ("schedules ignored", WIRING, "if not first.schedule.meets(second.schedule):", "if False:"),
    ("unedited reads dropped", WIRING, "if second != first and not isinstance", "if False and not isinstance"),
    ("needs dropped", WIRING, "if late and not early:", "if False:"),
    ("givers before those who cannot take what they give", WIRING, "elif early and not late:", "elif False:"),
    ("wishes dropped", WIRING, "edges = [*_needs(steps, start), *_wishes(steps)]", "edges = [*_needs(steps, start)]"),
    ("wishes turned round", WIRING, "return Edge(first, second, Rank.WISH", "return Edge(second, first, Rank.WISH"),
    ("branches that disagree accepted", WIRING, "if len({verdict.sign for verdict in ruled}) > 1", "if False"),
    ("listed pairs before rules", ORDER, "key=lambda edge: (edge.rank,", "key=lambda edge: (-edge.rank,"),
    ("ties by the list", ORDER, "ready = [(nodes[node].key, node)", "ready = [((), node)"),
    ("closure not kept", ORDER, "self.later[node] |= later", "pass"),
    ("conversion dropped", CHECKER, "if start[part] == conversion.source and wanted:", "if False:"),
    ("conversion for those alone who come first", CHECKER, "needs.append(loss.accepts)", "pass"),
    ("unmet needs accepted", CHECKER, "if before[part] not in edit.needs:", "if False:"),
    ("the loss takes anything", CHECKER, "kinds[Field.TARGETS] not in loss.accepts", "False"),
    ("shared claims ignored", CHECKS, "or (mine.shared and theirs.shared)", ""),
    ("one friendly owner is enough", CHECKS, "(mine.shared and theirs.shared)", "(mine.shared or theirs.shared)"),
    (
        "choices own nothing",
        "core/member.py",
        "for leaf in self.leaves for claim in leaf",
        "for leaf in () for claim in leaf",
    ),
    ("conditional changes of kind accepted", CHECKS, "not leaf.schedule.unconditional", "False"),
    (
        "mass of smoothing not kept",
        "algorithms/label_smoothing.py",
        "targets.sum(1, keepdim=True)",
        "targets.new_ones(())",
    ),
    ("ignored rows count", "core/conversions.py", "counted.unsqueeze(1).to(dtype)", "1.0"),
    (
        "partners of targets drawn apart",
        "algorithms/mixup.py",
        "targets=mix(batch.targets, draws.lam, draws.perm",
        "targets=mix(batch.targets, draws.lam, draws.perm.flip(0)",
    ),
    (
        "area before clipping",
        "algorithms/cutmix.py",
        "kept = 1 - area(boxes).double()",
        "kept = 1 - 0.9 * area(boxes).double()",
    ),
    (
        "draws by the place in the list",
        RUN,
        'f"{member.identity}/{purpose}" if purpose else member.identity',
        "purpose",
    ),
    ("the coin is the draw's", RUN, 'self.rng(member, "coin")', "self.rng(member)"),
    ("every step draws alike", RUN, "return Rng(self.seed, stream, self.step,", "return Rng(self.seed, stream, 0,"),
    ("ignored positions by torch's default index", RUN, "classes, self._plan.ignore_index)", "classes, -100)"),
    (
        "nobody is dropped",
        "core/mend.py",
        "del listed[_last(listed, remedy.algorithm)]",
        "_last(listed, remedy.algorithm)",
    ),
    ("a mean over positions", "losses/classes.py", "return losses.sum() / weighted.sum()", "return losses.mean()"),
    (
        "class weights in their own dtype",
        "losses/cross_entropy.py",
        "None if weight is None else weight.to(dtype),",
        "weight,",
    ),
    (
        "hidden partners drawn apart",
        "algorithms/manifold_mixup.py",
        "self._draws.perm.to(output.device",
        "self._draws.perm.flip(0).to(output.device",
    ),
    (
        "targets of other samples selected",
        "algorithms/selective_backprop.py",
        "batch.targets[kept]",
        "batch.targets[: len(kept)]",
    ),
    ("all but the box is pasted", "algorithms/cutmix.py", "width)[:, None]", "width)[:, None].logical_not()"),
)


def main() -> int:
    """Try every variant, or those that are named on the command line, and say which survive."""
    mutants = [mutant for mutant in MUTANTS if mutant[0] in sys.argv[1:] or not sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", "runs", ".hypothesis"))
        failing = caught(tree, tuple(dict.fromkeys(test for _, file, *_ in mutants for test in TESTS[file])))
        if failing:
            print(f"the tests fail as they are: {failing}")
            return 1
        survivors = [mutant[0] for mutant in mutants if not tried(tree, *mutant)]
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} variants caught")
    return int(bool(survivors))


def tried(tree: Path, name: str, file: str, right: str, wrong: str) -> bool:
    """Put a variant into the tree, run its tests, and say what became of it; return whether it was caught."""
    path = tree / "counterpoint" / file
    text = path.read_text()
    if text.count(right) != 1:
        print(f"{name}: {right!r} stands {text.count(right)} times in {file}", flush=True)
        return False
    path.write_text(text.replace(right, wrong))
    by = caught(tree, TESTS[file])
    path.write_text(text)
    print(f"{name}: {f'caught by {by}' if by else 'survives'}", flush=True)
    return by != ""


def caught(tree: Path, tests: tuple[str, ...]) -> str:
    """Return the first test that fails on a tree, the empty text if none does.

    The tests run in a fork of this process, so that torch is imported once for all variants.
    """
    fork = multiprocessing.get_context("fork")
    failed = fork.SimpleQueue()
    child = fork.Process(target=_run, args=(tree, tests, failed))
    child.start()
    first: str = failed.get()
    child.join()
    return first


class _First:
    """A plugin of pytest that keeps the first test that fails."""

    failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")


def _run(tree: Path, tests: tuple[str, ...], failed: SimpleQueue[str]) -> None:
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # this module's own package, which is not the tree's
    first = _First()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        code = pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", *tests], plugins=[first])
    failed.put(first.failed or (f"exit code {code}" if code else ""))


if __name__ == "__main__":
    sys.exit(main())
