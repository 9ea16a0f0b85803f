"""Operators beside those of cosmic-ray: a statement is left out, a keyword argument is left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import parso
from cosmic_ray.operators.operator import Example, Operator

Span = tuple[tuple[int, int], tuple[int, int]]
AUGMENTED = ("=", "+=", "-=", "*=", "/=", "|=", "&=")


class DropStatement(Operator):
    """Leave out a call, a raise, a deletion, or an assignment that does not make a local name."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        """Yield the statement's position."""
        if node.type == "simple_stmt" and _acts(node.children[0]):
            yield node.start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Put ``pass`` in its place."""
        first = node.children[0].get_first_leaf()
        node.children[0] = parso.python.tree.Keyword("pass", first.start_pos, prefix=first.prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does."""
        return (Example("f(x)", "pass"), Example("self.x = 1", "pass"), Example("x += 1", "pass"))


class DropKeyword(Operator):
    """Leave out one keyword argument of a call that has other arguments."""

    def mutation_positions(self, node: Any) -> Iterator[Span]:
        """Yield the positions of the keyword arguments."""
        for child in _keywords(node):
            yield child.start_pos, child.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Take the argument and one comma away."""
        at = node.children.index(list(_keywords(node))[index])
        del node.children[max(at - 1, 0) : at + 1 if at else 2]
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Return what it does."""
        return (Example("f(x, y=1)", "f(x)"), Example("f(y=1, x=2)", "f( x=2)"))


def _keywords(node: Any) -> Iterator[Any]:
    if node.type == "arglist":
        yield from (child for child in node.children if child.type == "argument" and child.children[1] == "=")


def _acts(statement: Any) -> bool:
    if statement.type in {"atom_expr", "raise_stmt", "del_stmt"}:
        return True
    if statement.type != "expr_stmt" or not hasattr(statement.children[1], "value"):
        return False
    target, sign = statement.children[0], statement.children[1].value
    return sign in AUGMENTED and (sign != "=" or target.type == "atom_expr")
