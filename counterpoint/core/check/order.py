"""Order steps by the edges between them: rules by their rank, then the canonical order of the steps still free."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from counterpoint.core.plan.decisions import Pair

__all__ = ["Edge", "Node", "Order", "Rank", "arrange"]


class Rank(IntEnum):
    """How strong the reason for an edge is; stronger ones first."""

    NEEDS = 0
    WISH = 1
    CONVENTION = 2
    LISTED = 3


@dataclass(frozen=True)
class Node:
    """A step to place: its name, its canonical key, and whether the user listed it."""

    name: str
    key: tuple[str, ...]
    listed: bool = True


class Edge(NamedTuple):
    """One step, by position, must come before another, by this rule and for this reason."""

    first: int
    second: int
    rank: Rank
    rule: str
    reason: str


@dataclass
class Order:
    """What ``arrange`` found: the sequence of positions, the pairs to show, and the edges that cannot hold."""

    sequence: list[int] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    contradictions: list[tuple[Edge, tuple[int, ...]]] = field(default_factory=list)


class _Closure:
    """Which nodes must come before which, kept transitively closed as bit sets."""

    def __init__(self, size: int) -> None:
        self.later = [0] * size
        self.earlier = [0] * size

    def has(self, first: int, second: int) -> bool:
        return bool(self.later[first] >> second & 1)

    def add(self, first: int, second: int) -> bool:
        """Put the first before the second; false, with nothing changed, if the second must come before the first."""
        if self.has(second, first):
            return False
        if not self.has(first, second):
            later, earlier = self.later[second] | 1 << second, self.earlier[first] | 1 << first
            for node in _bits(earlier):
                self.later[node] |= later
            for node in _bits(later):
                self.earlier[node] |= earlier
        return True

    def between(self, first: int, last: int) -> tuple[int, ...]:
        """Return the nodes that lie on a way from the first to the last, both included."""
        return (first, *_bits(self.later[first] & self.earlier[last]), last)


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def arrange(nodes: Sequence[Node], edges: Sequence[Edge]) -> Order:
    """Order the nodes, given in the order of the list, by the edges between them.

    Edges are taken by rank, and within a rank in canonical order, so that the list matters only through edges of rank
    ``LISTED``. A need or a wish that contradicts stronger ones is a contradiction; a convention or the list gives way.
    Nodes that no edge orders follow their canonical keys.
    """
    order, closure = Order(), _Closure(len(nodes))
    decided = {(edge.first, edge.second): edge for edge in edges if edge.rank < Rank.LISTED}
    canonical = {node: place for place, node in enumerate(sorted(range(len(nodes)), key=lambda node: nodes[node].key))}
    ranked = sorted(edges, key=lambda edge: (edge.rank, canonical[edge.first], canonical[edge.second]))
    implied: set[tuple[int, int]] | None = None
    for edge in ranked:
        if edge.rank is Rank.LISTED and implied is None:
            implied = {(first, second) for first, mask in enumerate(closure.later) for second in _bits(mask)}
        if closure.add(edge.first, edge.second):
            if implied is not None and (edge.first, edge.second) not in implied:
                order.pairs.append(_pair(nodes, edge.first, edge.second, "as listed", edge))
        elif edge.rank <= Rank.WISH:
            order.contradictions.append((edge, closure.between(edge.second, edge.first)))
        else:
            order.pairs.append(_pair(nodes, edge.second, edge.first, "overruled", edge))
    order.sequence = _sequence(nodes, closure)
    overruled = {(pair.first, pair.second) for pair in order.pairs if pair.outcome == "overruled"}
    order.pairs += [
        pair for pair in _moved(nodes, order.sequence, decided) if (pair.first, pair.second) not in overruled
    ]
    return order


def _pair(nodes: Sequence[Node], first: int, second: int, outcome: str, edge: Edge) -> Pair:
    return Pair(nodes[first].name, nodes[second].name, outcome, edge.rule, edge.reason)


def _sequence(nodes: Sequence[Node], closure: _Closure) -> list[int]:
    waiting = [mask.bit_count() for mask in closure.earlier]
    ready = [(nodes[node].key, node) for node, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    sequence = []
    while ready:
        _, node = heapq.heappop(ready)
        sequence.append(node)
        for other in _bits(closure.later[node]):
            waiting[other] -= 1
            if waiting[other] == 0:
                heapq.heappush(ready, (nodes[other].key, other))
    return sequence


def _moved(nodes: Sequence[Node], sequence: Sequence[int], decided: dict[tuple[int, int], Edge]) -> list[Pair]:
    moved = []
    for place, first in enumerate(sequence):
        for second in sequence[place + 1 :]:
            if second < first and nodes[first].listed and nodes[second].listed:
                edge = decided.get((first, second))
                free = Edge(
                    first, second, Rank.LISTED, "commuting", "they commute, so one canonical order serves all lists"
                )
                moved.append(_pair(nodes, first, second, "moved", edge or free))
    return moved
