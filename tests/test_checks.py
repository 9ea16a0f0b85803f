"""The checks: hooks and CI run sessions of noxfile.py, and the forms for issues are complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HOOKS = [
    hook
    for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    for hook in repository["hooks"]
]


def sessions() -> set[str]:
    """Return the names of the sessions of noxfile.py."""
    found = set()
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body:
        for mark in getattr(node, "decorator_list", []):
            if ast.unparse(mark).startswith("nox.session"):
                given = {word.arg: ast.literal_eval(word.value) for word in getattr(mark, "keywords", [])}
                found.add(given.get("name", getattr(node, "name", "")))
    return found


def test_hooks_are_sessions_and_download_nothing() -> None:
    assert {hook["entry"] for hook in HOOKS} <= {f"nox -s {name}" for name in sessions()}
    assert {hook["language"] for hook in HOOKS} == {"system"}


def test_ci_runs_what_the_hooks_run_and_the_long_tests() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    called = [name for names in re.findall(r"^nox .*-s (.+)$", run, re.MULTILINE) for name in names.split()]
    assert called == [*(hook["entry"].removeprefix("nox -s ") for hook in HOOKS), "long"]


def test_the_table_of_contributing_names_sessions() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `nox -s (\w+)` \|", text, re.MULTILINE))
    assert named == sessions() - {hook["id"] for hook in HOOKS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "collected"), [([], False), (["-m", "not slow"], False), (["-m", "slow"], True), (["-m", "long"], True)]
)
def test_long_tests_are_slow_and_run_only_where_asked_for(chosen: list[str], collected: bool) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/trainer/test_long.py", *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ("test_long.py::" in done.stdout) is collected, done.stdout


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_a_form_for_issues_is_complete(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text(encoding="utf-8"))
    assert form["name"]
    assert form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) > 1
    assert all(part["attributes"]["label"] for part in form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])
