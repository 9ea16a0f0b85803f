"""Each library's private parts are in one file, tried on the lowest release that is allowed and on the pinned one."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from counterpoint.integrations.lightning import compat as lightning
from counterpoint.integrations.transformers import compat as transformers
from counterpoint.trainer.loop import compat as accelerate

ROOT = Path(__file__).resolve().parents[2]
TRIED = {"accelerate": accelerate.TRIED, "lightning": lightning.TRIED, "transformers": transformers.TRIED}
ROOM = ROOT / "counterpoint" / "integrations"
OWN = {"_trainer", "_resumed", "_restore", "_begin_training", "_spans", "_parts", "_replace"}
"""Private names that one class of Counterpoint's uses of another in its own file, and that of named tuples."""


@pytest.mark.parametrize("library", TRIED)
def test_it_was_tried_on_the_lowest_release_and_on_the_pinned_one(library: str) -> None:
    lowest, pinned = TRIED[library][0], TRIED[library][-1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"].get(library, ())]
    wanted = next(each for each in required if Requirement(each).name == library)
    bound = next(part.version for part in Requirement(wanted).specifier if part.operator == ">=")
    assert f"{lowest}.".startswith(f"{bound}.")
    assert re.search(rf"^{library}==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1] == pinned  # type: ignore[index]


def private_parts(path: Path) -> Iterator[str]:
    """Give the private attributes of other objects that a file uses, and private names that it imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not of_self and not isinstance(node.value, ast.Call):
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))


@pytest.mark.parametrize("library", ["accelerate", "lightning", "transformers"])
def test_no_other_file_touches_private_parts(library: str) -> None:
    files = [path for path in (ROOM / library).glob("*.py") if path.name != "compat.py"]
    assert files
    assert {name for path in files for name in private_parts(path)} <= OWN
