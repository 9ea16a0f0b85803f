"""Bounds of dependencies are those that were tried, CI tries them again, and the page of mutants adds up."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LISTED = PROJECT["project"]["dependencies"] + [
    line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines
]
BOUNDS = [requirement for line in LISTED if (requirement := Requirement(line)).name != "counterpoint"]


def rows(page: str) -> list[list[str]]:
    """Return the cells of the tables of a page, without their heads."""
    lines = [line for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        row
        for place, row in enumerate(cells)
        if "---" not in row[0] and cells[place + 1 : place + 2] != [["---"] * len(row)]
    ]


def lower(requirement: Requirement) -> str:
    (bound,) = (clause.version for clause in requirement.specifier if clause.operator == ">=")
    return bound


@pytest.mark.kind("25")
def test_the_bounds_are_those_of_the_page() -> None:
    stated = {requirement.name: lower(requirement) for requirement in BOUNDS}
    tried = {}
    for names, bounds, _ in rows("decisions/0075-lower-bounds.md"):
        tried |= dict(zip(names.split(", "), bounds.split(", "), strict=True))
    assert len(tried) >= 8
    assert {name: stated[name] for name in tried} == tried
    assert Requirement(f"pytest>={PROJECT['tool']['pytest']['ini_options']['minversion']}").specifier.contains(
        stated["pytest"]
    )


@pytest.mark.kind("25")
@pytest.mark.parametrize("requirement", [item for item in BOUNDS if "dev" not in str(item)], ids=str)
def test_the_pinned_release_is_within_the_bounds(requirement: Requirement) -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert requirement.specifier.contains(pins[requirement.name.lower()])


@pytest.mark.kind("19")
def test_ci_runs_a_part_of_the_tests_on_the_lowest_and_on_the_newest() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"for versions in lowest newest; do\n(.*\n)*?\s+\.ci/versions \"\$versions\"", run)
    script = (ROOT / ".ci" / "versions").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^part=\(\n(.*?)^\)", script, re.MULTILINE | re.DOTALL)
    names = re.findall(r"\{(.*?)\}", listed)[0].split(",")
    paths = [*listed.split()[:-1], *(f"tests/trainer/test_{name}.py" for name in names)]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert "--resolution lowest-direct" in script


@pytest.mark.kind("31")
def test_the_page_of_mutants_adds_up() -> None:
    text = (ROOT / "docs" / "mutation.md").read_text(encoding="utf-8")
    table = {row[0]: [int(cell) for cell in row[1:3]] for row in rows("mutation.md")}
    mutants, noticed = table.pop("all")
    assert [sum(column) for column in zip(*table.values(), strict=True)] == [mutants, noticed]
    assert text.count("```diff") == mutants - noticed
    assert f"Version {version('counterpoint')}," in text
    told = re.findall(r"^- (.*), seed \d+: `", text, re.MULTILINE)
    assert told == [area for area, (count, _) in table.items() if count]
