"""The page that says what was tried and what nothing noticed: docs/mutation.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.mutation.mutants import AREAS, Mutant
from tests.mutation.trial import IMPORT, NOTHING

HEAD = """# Mutation testing

How many small changes of the code do the tests notice? A mutant is the code with one change: another operator or
number, a negated condition, a statement or an argument left out. The tests that run the changed line are run on it, and
one of them must fail. `python -m tests.mutation` draws mutants by a seed, tries them and renews this page, at each
release ([CONTRIBUTING](../CONTRIBUTING.md)).
"""


@dataclass(frozen=True)
class Outcome:
    """What noticed a mutant: a test, the time limit, or nothing. ``change`` has the lines that differ."""

    mutant: Mutant
    by: str
    change: str


@dataclass(frozen=True)
class Run:
    """The last run of an area: the seed of its sample, the tests it chose from, and what noticed each mutant."""

    seed: int
    tests: list[str]
    outcomes: list[Outcome]

    @property
    def counted(self) -> list[Outcome]:
        """The outcomes of mutants that can be imported."""
        return [outcome for outcome in self.outcomes if outcome.by != IMPORT]


def page(runs: Mapping[str, Run], version: str) -> str:
    """Return the page for the last run of each area."""
    about = "the last run of each area. Mutants that cannot be imported are not counted"
    lines = [HEAD, f"Version {version}, {about}.", ""]
    lines += ["| area | mutants | noticed | score |", "| --- | --- | --- | --- |"]
    lines += [_row(area, runs[area].counted if area in runs else []) for area in AREAS]
    counted = [outcome for run in runs.values() for outcome in run.counted]
    lines += [_row("all", counted), "", "## The tests of each area", ""]
    for area in (area for area in AREAS if area in runs):
        lines += [f"- {area}, seed {runs[area].seed}: {', '.join(f'`{test}`' for test in runs[area].tests)}"]
    lines += ["", "## What nothing noticed", ""]
    survivors = [outcome for outcome in counted if outcome.by == NOTHING]
    for outcome in sorted(survivors, key=lambda outcome: (outcome.mutant.file, outcome.mutant.line)):
        mutant = outcome.mutant
        lines += [f"`{mutant.file}`, line {mutant.line}, {mutant.definition or 'the module'}:", ""]
        lines += ["```diff", outcome.change, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, outcomes: list[Outcome]) -> str:
    noticed = sum(outcome.by != NOTHING for outcome in outcomes)
    score = f"{100 * noticed / len(outcomes):.1f} %" if outcomes else "not tried"
    return f"| {name} | {len(outcomes)} | {noticed} | {score} |"
