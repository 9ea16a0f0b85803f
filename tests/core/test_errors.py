"""The tree of errors, as its module draws it."""

from __future__ import annotations

import re

from counterpoint.core import errors


def drawn() -> dict[str, str]:
    """Read child → parent off the drawing in the module's docstring."""
    parents: dict[str, str] = {}
    open_at: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"\s{4}([│├└─ ]*)([A-Z]\w+Error)", line)
        if match:
            depth = len(match[1])
            open_at[depth] = match[2]
            if depth:
                parents[match[2]] = open_at[max(level for level in open_at if level < depth)]
    return parents


def test_the_drawing_is_the_tree() -> None:
    classes = {name: getattr(errors, name) for name in errors.__all__ if name.endswith("Error")}
    tree = {
        name: next(base.__name__ for base in cls.__bases__ if issubclass(base, errors.CounterpointError))
        for name, cls in classes.items()
        if cls is not errors.CounterpointError
    }
    assert drawn() == tree


def test_the_drawing_names_the_builtin_parents() -> None:
    for name, builtin in re.findall(r"(\w+Error) .*\(also a (\w+)\)", errors.__doc__ or ""):
        assert builtin in {base.__name__ for base in getattr(errors, name).__mro__}


def test_every_error_of_the_module_is_public() -> None:
    assert {name for name in vars(errors) if name.endswith("Error")} <= set(errors.__all__)
