"""What is shipped: the wheel's content, its metadata, and the versions that everything was tested with."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import counterpoint
from counterpoint.plugins import entries

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
METHODS = PROJECT["entry-points"]["counterpoint.algorithms"]
INFO = f"counterpoint-{PROJECT['version']}.dist-info"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Return the names of the files in a wheel built from a copy of the sources, offline."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "counterpoint", folder / "counterpoint", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--wheel-dir", folder]
    done = subprocess.run(
        [*pip_wheel, "--no-deps", "--no-index", "--no-build-isolation", folder],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(built).namelist())


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_cards_and_its_licence(wheel: set[str]) -> None:
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "counterpoint").rglob("*.py")}
    expected |= {f"counterpoint/algorithms/cards/{name}.md" for name in METHODS}
    expected |= {"counterpoint/py.typed", f"{INFO}/licenses/LICENSE"}
    assert expected <= wheel
    assert {name.partition("/")[0] for name in wheel} == {"counterpoint", INFO}


def test_the_package_says_its_version() -> None:
    assert counterpoint.__version__ == PROJECT["version"] == version("counterpoint")


def test_the_installed_entry_points_are_those_of_the_project_file() -> None:
    written = {
        (group, name, value) for group, points in PROJECT["entry-points"].items() for name, value in points.items()
    }
    assert {(e.group, e.name, e.value) for e in entries() if e.package == "counterpoint"} == written


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines)}
    extras = PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, [*PROJECT["dependencies"], *(item for extra in extras for item in extra)]):
        if requirement.name == PROJECT["name"]:  # an extra that holds others
            continue
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def brought_by(files: Iterable[Path]) -> set[str]:
    """Return the distributions that the imports of some files need."""
    imported = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    packages = packages_distributions()
    # _typeshed exists for type checkers alone: they bring it
    third_party = imported - set(sys.stdlib_module_names) - {"counterpoint", "_typeshed"}
    # pydantic requires the exact version of its core
    return {canonicalize_name(name) for module in third_party for name in packages[module]} - {"pydantic-core"}


def names_of(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(item).name) for item in requirements}


@pytest.mark.slow
def test_everything_imported_is_required_and_nothing_else() -> None:
    files = set((ROOT / "counterpoint").rglob("*.py"))
    integrations = set((ROOT / "counterpoint" / "integrations").rglob("*.py"))
    required, extras = names_of(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    assert brought_by(files - integrations) == required
    assert brought_by(integrations) - required == names_of([*extras["lightning"], *extras["transformers"]])
