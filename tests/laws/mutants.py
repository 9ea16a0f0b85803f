"""Wrong variants of the rules and conversions: some test must catch each. Run it with ``python -m tests.laws.mutants``.

Each variant is one edit of a copy of the tree, on which the tests of the core and the laws are run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ["tests/core", "tests/test_composition_targets.py", "tests/laws/test_laws.py"]
COMMUTE, WIRING, ORDER = "core/commute.py", "core/wiring.py", "core/order.py"
CHECKER, CHECKS, RUN = "core/checker.py", "core/checks.py", "core/run.py"

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
)


def survives(name: str, file: str, right: str, wrong: str) -> str | None:
    """Return what to say of a variant that no test caught, ``None`` for a caught one."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", ".venv", ".*_cache", "runs", ".hypothesis"))
        path = tree / "counterpoint" / file
        text = path.read_text()
        if right not in text:
            return f"{name}: {right!r} is no longer in {file}"
        path.write_text(text.replace(right, wrong))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", *TESTS]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        return f"{name}: survives" if result.returncode == 0 else None


def main() -> int:
    """Try every variant, and name those that survive."""
    survivors = 0
    for mutant in MUTANTS:
        said = survives(*mutant)
        survivors += said is not None
        print(said or f"{mutant[0]}: caught", flush=True)
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} variants caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
