"""The tree of errors, as its module draws it."""

from __future__ import annotations

import inspect
import re

import pytest

from counterpoint.core import errors

BUILTIN = {
    "ArgumentError": {"TypeError", "ValueError"},
    "DeclarationError": {"TypeError"},
    "CompositionError": {"ValueError"},
    "ConfigError": {"ValueError"},
    "DataError": {"ValueError"},
    "ContractError": {"RuntimeError"},
    "MethodError": {"RuntimeError"},
    "EngineRequiredError": {"RuntimeError"},
    "PluginError": {"LookupError"},
    "RunError": {"RuntimeError"},
}
"""The builtin bases that code outside relies on, in an ``except`` of its own."""
CLASSES = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, BaseException)
}


def drawn() -> dict[str, tuple[str | None, set[str]]]:
    """Read the parent and the builtin bases of each class off the drawing in the module's docstring."""
    found: dict[str, tuple[str | None, set[str]]] = {}
    open_at: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"\s{4}([│├└─ ]*)([A-Z]\w+)(.*)$", line)
        if match:
            depth, name, rest = len(match[1]), match[2], match[3]
            open_at = {level: above for level, above in open_at.items() if level < depth} | {depth: name}
            also = re.search(r"\(also an? (.*)\)", rest)
            builtin = set(re.findall(r"[A-Z]\w+", also[1])) if also else set()
            found[name] = (open_at[max(level for level in open_at if level < depth)] if depth else None, builtin)
    return found


@pytest.mark.kind("30")
def test_the_drawing_holds_every_class_and_its_bases() -> None:
    tree = {}
    for name, cls in CLASSES.items():
        own = [base.__name__ for base in cls.__bases__ if base.__name__ in CLASSES or base is UserWarning]
        builtin = {base.__name__ for base in cls.__bases__} - set(own)
        tree[name] = (own[0] if own else None, builtin - {"Exception"})
    assert drawn() == tree | {"UserWarning": (None, set())}


@pytest.mark.kind("30")
def test_the_builtin_bases_are_these() -> None:
    for name, cls in CLASSES.items():
        of_python = {base.__name__ for base in cls.__bases__ if base.__module__ == "builtins"}
        assert of_python - {"Exception", "UserWarning"} == BUILTIN.get(name, set()), name
        assert issubclass(cls, errors.CounterpointError) is not issubclass(cls, Warning), name


@pytest.mark.kind("30")
def test_every_error_of_the_module_is_public() -> None:
    assert set(CLASSES) == {name for name in errors.__all__ if name[0].isupper()}
