"""The page that says what was tried and what nothing noticed: docs/mutation.md."""

from __future__ import annotations

from collections.abc import Iterable
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
    """What noticed a mutant: a test, the time limit, or nothing."""

    mutant: Mutant
    by: str


def page(outcomes: Iterable[Outcome], seed: int, version: str, tests: list[str]) -> str:
    """Return the page for what was tried."""
    counted = [outcome for outcome in outcomes if outcome.by != IMPORT]
    given = ", ".join(tests)
    lines = [
        HEAD,
        f"Version {version}, seed {seed}, tests in {given}. Mutants that cannot be imported are not counted.",
        "",
    ]
    lines += ["| area | mutants | noticed | score |", "| --- | --- | --- | --- |"]
    for area in AREAS:
        lines += [_row(area, [outcome for outcome in counted if outcome.mutant.area == area])]
    lines += [_row("all", counted), ""]
    survivors = [outcome.mutant for outcome in counted if outcome.by == NOTHING]
    lines += ["## What nothing noticed", ""]
    for mutant in sorted(survivors, key=lambda mutant: (mutant.file, mutant.line)):
        lines += [f"`{mutant.file}`, line {mutant.line}, {mutant.definition or 'the module'}:", ""]
        lines += ["```diff", mutant.diff(), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, outcomes: list[Outcome]) -> str:
    noticed = sum(outcome.by != NOTHING for outcome in outcomes)
    score = f"{100 * noticed / len(outcomes):.1f} %" if outcomes else "not tried"
    return f"| {name} | {len(outcomes)} | {noticed} | {score} |"
