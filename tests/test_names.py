"""One name means one thing in the whole package."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import counterpoint

PACKAGE = Path(counterpoint.__file__).parent


@pytest.mark.slow
@pytest.mark.kind("18")
def test_a_public_name_is_defined_in_one_place() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):
                named = [target.id for target in node.targets if isinstance(target, ast.Name)]
            for name in named:
                places[name].append(str(path.relative_to(PACKAGE)))
    public = {name: places[name] for name in counterpoint.__all__ if name in places}
    assert {name: where for name, where in public.items() if len(where) > 1} == {}
    assert public["Component"] == ["core/declare/algorithm.py"]
    assert len(public) > 50
