"""Which files are mutated, every mutant of them, and a sample."""

from __future__ import annotations

import ast
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator

from tests.mutation.operators import DropKeyword, DropStatement

ROOT = Path(__file__).parents[2]
TREE = ROOT / ".mutation" / "tree"
"""The copy of the project that is changed: the project itself may go on meanwhile."""

AREAS = {
    "core": ("counterpoint/core/**/*.py",),
    "algorithms": ("counterpoint/algorithms/**/*.py",),
    "losses": ("counterpoint/losses/**/*.py",),
    "trainer's loop": tuple(
        f"counterpoint/trainer/**/{name}.py"
        for name in ("loop", "checkpoint", "sampler", "global_batch", "metrics", "nonfinite", "signals")
    ),
}
"""Patterns of the files of each area, from the root of the project."""


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    ``line`` is where, ``definition`` the function or class around it ("" for the module). ``imported`` says that it
    runs at import, since it is in no function's body.
    """

    area: str
    file: str
    operator: str
    occurrence: int
    line: int
    definition: str
    imported: bool

    def code(self) -> str | None:
        """Return the file with the change, None where it no longer parses."""
        source = (TREE / self.file).read_text(encoding="utf-8")
        code = mutate_code(source, OPERATORS[self.operator], self.occurrence)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                ast.parse(code or "")
        except (SyntaxError, SyntaxWarning):
            return None
        same = code is None or ast.dump(ast.parse(code)) == ast.dump(ast.parse(source))
        return None if same else code

    def diff(self) -> str:
        """Return the lines that change, with - and +."""
        lines = unified_diff(
            (TREE / self.file).read_text(encoding="utf-8").splitlines(),
            (self.code() or "").splitlines(),
            n=0,
            lineterm="",
        )
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def files(area: str) -> list[str]:
    """Return the files of an area."""
    return sorted({str(path.relative_to(TREE)) for pattern in AREAS[area] for path in TREE.glob(pattern)})


def sample(area: str, count: int, seed: int, only: str = "") -> list[Mutant]:
    """Draw places of an area, each alike, and one change of each; ``only`` keeps files by a part of their path."""
    places: dict[tuple[str, object], list[Mutant]] = defaultdict(list)
    for file in files(area):
        if only in file:
            for place, mutant in _of(area, file):
                places[file, place].append(mutant)
    generator, drawn = random.Random(f"{seed}/{area}"), []
    for place in generator.sample(sorted(places, key=str), len(places)):
        changes = generator.sample(places[place], len(places[place]))
        drawn += [mutant for mutant in changes if mutant.code() is not None][:1]
        if len(drawn) == count:
            break
    return drawn


def _operators() -> Iterator[tuple[str, Operator]]:
    for name in cosmic_ray.plugins.operator_names():
        operator = cosmic_ray.plugins.get_operator(name)
        if not operator.arguments():
            yield name.removeprefix("core/"), operator()
    yield "DropStatement", DropStatement()
    yield "DropKeyword", DropKeyword()


OPERATORS: dict[str, Operator] = dict(_operators())


def _of(area: str, file: str) -> Iterator[tuple[object, Mutant]]:
    """Yield every mutant of a file with its place; annotations, which nothing runs, are left out."""
    source = (TREE / file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    idle, definitions, bodies = _idle(tree), _definitions(tree), _bodies(tree)
    nodes = list(ast_nodes(get_ast(source)))
    for name, operator in OPERATORS.items():
        spans = [span for node in nodes for span in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(spans):
            if not any(first <= start < last for first, last in idle):
                inside = [which for which, (first, last) in definitions if first <= start[0] <= last]
                imported = not any(first <= start[0] <= last for first, last in bodies)
                yield (start, end), Mutant(area, file, name, occurrence, start[0], ".".join(inside), imported)


def _idle(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return the spans of annotations and of what is for type checkers alone."""
    nodes: list[ast.expr | ast.stmt | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            nodes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            nodes.append(node.returns)
            nodes += [item for item in node.decorator_list if ast.unparse(item) in {"overload", "override"}]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.append(node)
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)) for node in nodes if node
    ]


def _definitions(tree: ast.Module) -> list[tuple[str, tuple[int, int]]]:
    """Return name, first and last line of each function and class, outer ones first."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    found.sort(key=lambda node: (node.lineno, -(node.end_lineno or 0)))
    return [(node.name, (node.lineno, node.end_lineno or 0)) for node in found]


def _bodies(tree: ast.Module) -> list[tuple[int, int]]:
    """Return first and last line of the body of each function."""
    return [(node.body[0].lineno, node.end_lineno or 0) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
