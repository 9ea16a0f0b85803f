"""The origin of a saved state: the plan, and the version and source of everything that computes in it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from counterpoint.core.declare.kinds import EVALUATION_WEIGHTS
from counterpoint.core.errors import CheckpointError
from counterpoint.core.plan.data import PlanData
from counterpoint.core.plan.serialization import fingerprint
from counterpoint.core.run.training.sources import digest, distribution_of, source_of, top_package, version_of

__all__ = ["averages_in", "check_origin", "pack_origin"]

_WORKING = ("torch", "numpy")
"""Packages whose other versions may compute other numbers for the same plan."""


def pack_origin(plan: PlanData) -> Tensor:
    """Return the origin of a state as the bytes of its JSON, uint8, which every checkpoint can hold.

    It has the plan's fingerprint and order, and for each method and the loss its distribution, version and a digest of
    its source.
    """
    return torch.frombuffer(bytearray(json.dumps(_origin(plan), sort_keys=True).encode()), dtype=torch.uint8)


def averages_in(packed: Tensor | None) -> list[str]:
    """Return the names of the methods that give weights for evaluation, by the origin of a state."""
    return [] if packed is None else list(_unpacked(packed).get("averages", ()))


def check_origin(plan: PlanData, packed: Tensor | None) -> None:
    """Raise ``CheckpointError`` unless a state was saved by this plan, in the current versions."""
    if packed is None:
        raise CheckpointError(
            "the state does not say which plan and which versions it was saved by, so the run may not go on as it "
            f"began; {_WAY_OUT}"
        )
    changes = list(_changes(_unpacked(packed), _origin(plan)))
    if changes:
        raise CheckpointError(f"the state was saved by a run of {'; '.join(changes)}; {_WAY_OUT}")


def _unpacked(packed: Tensor) -> dict[str, Any]:
    """Return the origin of a state; raises ``CheckpointError`` if it is damaged."""
    try:
        origin = json.loads(bytes(packed.tolist()))
        whole = origin.keys() >= _PARTS
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"what the state says of its origin is damaged: {error}") from error
    if not whole:
        raise CheckpointError(f"what the state says of its origin is damaged: it holds {', '.join(origin)}")
    return dict(origin)


_PARTS = {"plan", "order", "sources", "versions"}
_WAY_OUT = "go on with what it was saved by, or, knowing that the run then differs, with allow_changes=True"


def _origin(plan: PlanData) -> dict[str, Any]:
    sources = {leaf.identity: _source(type(leaf.algorithm)) for member in plan.members for leaf in member.leaves}
    if plan.loss_spec is not None:
        sources["the loss"] = _source(_defined(plan.loss_spec.function))
    versions = {name: version_of(name) or "unknown" for name in _WORKING}
    averages = [m.identity for m in plan.members if any(c.slot == EVALUATION_WEIGHTS.slot for c in m.claims)]
    own = {"plan": fingerprint(plan), "order": list(plan.order), "averages": averages}
    return {**own, "sources": sources, "versions": versions}


def _changes(saved: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Describe the differences, the most important first."""
    if saved["plan"] != now["plan"]:
        was, own = (f"the plan {data['plan']} ({', '.join(data['order'])})" for data in (saved, now))
        yield f"{was}, and this is {own}"
    for part in ("sources", "versions"):
        for name in sorted(saved[part].keys() & now[part].keys()):
            if saved[part][name] != now[part][name]:
                yield f"{name} {saved[part][name]}, and this is {now[part][name]}"


def _defined(function: Any) -> Any:
    """Return the class or function whose source says what a callable computes."""
    if isinstance(function, partial):
        return _defined(function.func)
    return function if inspect.isroutine(function) else type(function)


@cache
def _source(defined: Any) -> str:
    """Return the distribution of a class or function, its version, and a digest of the file that defines it."""
    distribution, version = distribution_of(top_package(defined))
    name = f"{distribution} {version}" if distribution else str(defined.__module__)
    source = source_of(defined)
    return name if source is None else f"{name} ({digest(source)})"
