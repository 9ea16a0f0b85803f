"""Random compositions: registered methods with random legal settings, facts, a loss, a batch shape and a list order."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import annotated_types
import pydantic
import torch
from hypothesis import reject
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core.kinds import INPUT_KINDS
from counterpoint.plugins import ALGORITHMS

CLASSES, CHANNELS, SIDE = 3, 3, 6
TASKS = ("multiclass", "segmentation", "multilabel", "regression")
KINDS = tuple(kind.name for kind in INPUT_KINDS if kind.name != "tokens")
COMMON = frozenset({"start", "end", "every", "p", "after", "before", "id"})
SPECIAL: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("manifold_mixup", "module"): st.sampled_from([("stem",), ("stem", "head"), ("nowhere",)]),
    ("normalize", "mean"): st.sampled_from([(0.5,), (0.4, 0.5, 0.6)]),
    ("normalize", "std"): st.sampled_from([(0.2,), (0.2, 0.3, 0.4)]),
}
"""Settings whose legal values their types do not tell, by method and setting."""


@functools.cache
def built_in() -> dict[str, type[cp.Algorithm[Any]]]:
    """Return every method that Counterpoint itself registers."""
    entries = [entry for entry in ALGORITHMS.entries() if entry.package == "counterpoint"]
    return {entry.name: ALGORITHMS.load(entry.name) for entry in entries}


@dataclass(frozen=True)
class Composition:
    """What a case composes: the list, the facts, and what the batch looks like."""

    algorithms: tuple[cp.Algorithm[Any], ...]
    facts: dict[str, Any]
    size: int
    dtype: torch.dtype
    dense: bool
    seed: int

    def inputs(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        if self.facts["inputs"] == "bytes":
            return torch.randint(256, (self.size, CHANNELS, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        shape = (self.size, 12) if self.facts["inputs"] == "features" else (self.size, CHANNELS, SIDE, SIDE)
        return torch.rand(*shape, generator=generator, dtype=torch.float64).to(self.dtype)

    def targets(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(7777 * self.seed + step)
        task = self.facts["task"]
        if task == "multilabel":
            return (torch.rand(self.size, CLASSES, generator=generator) < 0.5).float()
        if task == "regression":
            return torch.randn(self.size, CLASSES, generator=generator)
        shape = (self.size, SIDE, SIDE) if task == "segmentation" else (self.size,)
        indices = torch.randint(CLASSES, shape, generator=generator)
        if self.dense:
            return torch.eye(CLASSES)[indices].movedim(-1, 1).contiguous()
        ignored = torch.rand(*shape, generator=generator) < 0.2
        return torch.where(ignored, -100, indices)


class Small(nn.Module):
    """A model with named parts that takes any of the inputs and gives outputs for any of the tasks."""

    def __init__(self, task: str, *, features: bool) -> None:
        super().__init__()
        self.task, self.features = task, features
        self.stem = nn.Linear(12, 8) if features else nn.Conv2d(CHANNELS, 8, 3, padding=1, stride=1)
        self.norm = nn.Identity() if features else nn.BatchNorm2d(8)
        self.pool = nn.Identity() if features else nn.MaxPool2d(2)
        self.head = nn.Linear(8, CLASSES) if features or task != "segmentation" else nn.Conv2d(8, CLASSES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs.to(self.stem.weight.dtype))
        if self.features:
            return typing.cast(Tensor, self.head(hidden.relu()))
        hidden = self.norm(hidden).relu()
        if self.task == "segmentation":
            return typing.cast(Tensor, self.head(hidden))
        return typing.cast(Tensor, self.head(self.pool(hidden).mean((2, 3))))


def values_of(annotation: Any, limits: list[Any]) -> st.SearchStrategy[Any] | None:
    """Return a strategy for a type, within its limits; ``None`` if the type does not tell."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        parts = [values_of(part, limits) for part in arguments if part is not type(None)]
        known = [part for part in parts if part is not None]
        return st.one_of(st.none(), *known) if known else None
    if annotation is bool:
        return st.booleans()
    low = max([limit.ge for limit in limits if isinstance(limit, annotated_types.Ge)], default=None)
    above = max([limit.gt for limit in limits if isinstance(limit, annotated_types.Gt)], default=None)
    high = min([limit.le for limit in limits if isinstance(limit, annotated_types.Le)], default=None)
    below = min([limit.lt for limit in limits if isinstance(limit, annotated_types.Lt)], default=None)
    start = low if low is not None else above if above is not None else -2
    end = high if high is not None else below if below is not None else start + 4
    if annotation is int:
        return st.integers(start + (low is None and above is not None), end)
    if annotation is float:
        return st.floats(
            start, end, exclude_min=low is None and above is not None, exclude_max=high is None and below is not None
        ).filter(lambda value: value == 0 or abs(value) > 1e-6)
    return None


def setting(name: str, key: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    """Return a strategy for a setting of a registered method: mostly its default, else any legal value."""
    legal = SPECIAL.get((name, key))
    if legal is None:
        legal = values_of(field.annotation, list(field.metadata))
    if legal is None and not field.is_required():
        return st.just(field.get_default(call_default_factory=True))
    if legal is None:
        raise AssertionError(f"say in SPECIAL what {name}.{key} may be: {field.annotation}")
    return legal if field.is_required() else st.one_of(st.just(field.default), legal)


@st.composite
def algorithm(draw: Callable[[st.SearchStrategy[Any]], Any], nested: bool = False) -> cp.Algorithm[Any]:
    """Draw a registered method with legal settings."""
    classes = built_in()
    name = draw(st.sampled_from(sorted(set(classes) - ({"one_of"} if nested else set()))))
    cls = classes[name]
    if name == "one_of":
        settings: dict[str, Any] = {"algorithms": draw(st.lists(algorithm(nested=True), min_size=1, max_size=3))}
    else:
        fields = {key: field for key, field in cls.model_fields.items() if key not in COMMON}
        settings = {key: draw(setting(name, key, field)) for key, field in fields.items()}
    if draw(st.integers(0, 2)) == 0:
        settings |= draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "start": st.sampled_from(["0ba", "1ba", "0.5dur"]),
                    "end": st.sampled_from(["2ba", "1ep", None]),
                    "every": st.integers(1, 3),
                    "p": st.sampled_from([0.0, 0.5, 1.0]),
                },
            )
        )
    settings["id"] = draw(st.sampled_from([None, None, None, f"{name}_2"]))
    wish = draw(st.sampled_from([None] * 8 + ["after", "before"]))
    if wish is not None:
        settings[wish] = (draw(st.sampled_from(sorted(classes))),)
    try:
        return cls.model_validate(settings)
    except pydantic.ValidationError:  # each setting is legal, and some of them not together
        reject()


def losses(task: str) -> st.SearchStrategy[Any]:
    """Draw a loss that may fit a task, with random options."""
    if task in ("multiclass", "segmentation"):
        return st.builds(
            nn.CrossEntropyLoss,
            weight=st.sampled_from([None, torch.tensor([0.5, 1.0, 2.0])]),
            label_smoothing=st.sampled_from([0.0, 0.0, 0.0, 0.1]),
            reduction=st.sampled_from(["mean", "sum"]),
        )
    return st.sampled_from([nn.BCEWithLogitsLoss(), nn.MSELoss()] if task == "multilabel" else [nn.MSELoss()])


@st.composite
def compositions(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Composition:
    """Draw a case."""
    task = draw(st.sampled_from(TASKS))
    size = draw(st.integers(1, 5))
    facts = {
        "task": task,
        "num_classes": CLASSES,
        "inputs": draw(st.sampled_from(KINDS if task != "segmentation" else [k for k in KINDS if k != "features"])),
        "loss": draw(losses(task)),
        "batch_size": size,
        "steps_per_epoch": 2,
        "max_duration": "4ba",
        "seed": draw(st.integers(0, 2**32)),
        "strict_order": draw(st.sampled_from([False, False, False, True])),
        "model_inputs": {"bytes", "image", "unit", "normalized", "features"},
        "contract": "always",
    }
    return Composition(
        tuple(draw(st.lists(algorithm(), max_size=5))),
        facts,
        size,
        draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
        draw(st.booleans()),
        draw(st.integers(0, 1000)),
    )
