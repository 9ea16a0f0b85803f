"""What became of the cases, and how much each law compared: counted, so that no law can hold by comparing nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from counterpoint import DENSE, INDEX
from tests.laws.case import Composition
from tests.laws.draft import leaves
from tests.laws.settings import accepted_by

LAWS = {
    "1 fixes applied": "faults whose fix as data removed them",
    "1 batches trained": "batches trained under the contract check",
    "1 evaluations": "evaluations",
    "2 lists": "other orders of a list that gave the same fingerprint and the same order of steps",
    "2 bits": "of these, orders whose batch was compared as well, bit by bit",
    "2 trainings": "trainings of another order of the list that ended with the same weights, bit by bit",
    "2 lists that decide otherwise": "orders that turn a pair which the list decides, not compared",
    "3 targets": "batches whose targets were compared with the formulas of what was drawn",
    "3 targets that changed": "of these, batches whose targets are no longer those of the data",
    "3 inputs": "batches whose inputs were compared with the formulas of what was drawn",
    "3 unit vectors": "batches of unit vectors whose targets were compared with the mixing of what the model gives",
    "3 unit vectors that mix": "of these, batches that are mixed",
    "3 losses": "losses on dense rows compared with torch's on indices, value and gradient",
    "4 draws without another": "batches whose draws were compared after one method was removed",
    "4 draws with another": "batches whose draws were compared after one method was added",
    "4 draws with one skipped": "batches whose draws were compared with one method skipped",
    "5 pairs": "commuting pairs run in both orders, in float64",
    "5 pairs on one field": "of these, pairs that edit the same field and that both changed it",
}
"""What is counted of each law."""


@dataclass
class Tally:
    """What became of the cases."""

    accepted: int = 0
    refused: int = 0
    lengths: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    shares: dict[str, Counter[str]] = field(default_factory=dict)
    compared: Counter[str] = field(default_factory=Counter)

    def refuse(self, codes: set[str]) -> None:
        """Count a case that was refused with these codes."""
        self.refused += 1
        self.codes.update(codes)

    def accept(self, case: Composition) -> None:
        """Count a case that was accepted, with what it holds."""
        self.accepted += 1
        self.lengths += len(case.algorithms)
        for what, values in described(case).items():
            self.shares.setdefault(what, Counter()).update(values)

    def count(self, what: str, times: int = 1) -> None:
        """Count comparisons of a law."""
        assert what in LAWS, what
        self.compared[what] += times

    def __str__(self) -> str:
        total = self.accepted + self.refused
        broken = len(self.violations)
        mean = self.lengths / max(self.accepted, 1)
        lines = [
            f"{total} cases: {self.accepted} accepted, {self.refused} refused, {broken} violations",
            *self.violations,
            *([f"methods in an accepted list: {mean:.2f} on average"] if self.lengths else []),
            "refused with, of the refused:",
            f"  {_shares(self.codes, self.refused)}",
        ]
        for what, counted in self.shares.items():
            lines += [f"accepted by {what}, of the accepted:", f"  {_shares(counted, self.accepted)}"]
        lines += ["compared:", *(f"  {self.compared[what]:>8} {LAWS[what]}" for what in LAWS if what in self.compared)]
        return "\n".join(lines)


def _shares(counted: Counter[str], total: int) -> str:
    return ", ".join(f"{name} {count} ({count / max(total, 1):.1%})" for name, count in counted.most_common())


def described(case: Composition) -> dict[str, set[str]]:
    """Return what a case holds, by what it is."""
    listed = case.listed
    inner = [leaf for algorithm in listed for leaf in leaves(algorithm)]
    scheduled = [a for a in (*listed, *inner) if a.p < 1 or a.every > 1 or a.end is not None]
    features = {
        "a schedule or a coin": bool(scheduled),
        "a wish": any(algorithm.after or algorithm.before for algorithm in listed),
        "two of one method": len({algorithm.name for algorithm in listed}) < len(listed),
        "given dense targets": case.dense and DENSE in _taken(case),
        "an ignored class": case.ignore_index >= 0,
        "strict_order": case.facts["strict_order"],
        "microbatches": case.facts["microbatches"] > 1,
    }
    return {
        "method": {algorithm.name for algorithm in (*listed, *inner)},
        "number of methods": {str(len(listed))},
        "task": {case.facts["task"]},
        "loss": {case.loss},
        "inputs": {case.facts["inputs"]},
        "dtype": {str(case.dtype).removeprefix("torch.") if case.facts["inputs"] != "bytes" else "uint8"},
        "batch size": {str(case.size)},
        "what else it holds": {name for name, there in features.items() if there},
    }


def _taken(case: Composition) -> frozenset[object]:
    if case.facts["task"] not in ("multiclass", "segmentation"):
        return frozenset()
    return frozenset({INDEX, DENSE} if case.loss == "none" else accepted_by(case.loss))
