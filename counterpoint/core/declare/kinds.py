"""What may be touched (fields), what a field holds (kinds), and what a method may own (claims)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from counterpoint.core.arguments import flag, instance, real_number

__all__ = [
    "BATCH_SIZE",
    "BYTES",
    "CONTINUOUS",
    "DENSE",
    "EVALUATION_WEIGHTS",
    "FEATURES",
    "IMAGE",
    "IMAGES",
    "INDEX",
    "INPUT_KINDS",
    "MIXABLE",
    "MIXING",
    "MULTI_HOT",
    "NORMALIZED",
    "OPTIMIZER_STEP",
    "REAL",
    "SMOOTHING",
    "TARGET_KINDS",
    "TASKS",
    "TOKENS",
    "UNIT",
    "Axis",
    "Claim",
    "Field",
    "Kind",
    "Slot",
    "Task",
]


class Field(StrEnum):
    """A part of training that a method may read or edit."""

    INPUTS = "inputs"
    TARGETS = "targets"
    OUTPUTS = "outputs"
    LOSS = "loss"
    GRADIENTS = "gradients"
    PARAMETERS = "parameters"
    MODULES = "modules"
    OPTIMIZER = "optimizer"


class Axis(StrEnum):
    """A direction of a batch along which an edit may mix values or differ."""

    SAMPLE = "sample"
    POSITION = "position"
    CHANNEL = "channel"


@dataclass(frozen=True, order=True)
class Kind:
    """What a field holds. Kinds are open: a plugin may define its own.

    ``name`` is the word a user writes; two kinds are the same if their names and fields are.

    >>> Kind("boxes", Field.TARGETS, "corner coordinates of objects")
    Kind(name='boxes', field=<Field.TARGETS: 'targets'>, meaning='corner coordinates of objects')
    """

    name: str
    field: Field
    meaning: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        instance("name", self.name, str, "'boxes'")
        instance("field", self.field, Field, "Field.TARGETS")
        instance("meaning", self.meaning, str, "'corner coordinates'")

    def __str__(self) -> str:
        return self.name


INDEX = Kind("index", Field.TARGETS, "class indices, int64, (N) or (N, positions)")
DENSE = Kind("dense", Field.TARGETS, "class probabilities, float, (N, C) or (N, C, positions)")
MULTI_HOT = Kind("multi_hot", Field.TARGETS, "independent labels between 0 and 1, float, (N, C)")
REAL = Kind("continuous", Field.TARGETS, "real numbers to regress on, float, (N, ...)")

IMAGE = Kind("image", Field.INPUTS, "float images of unstated scale, (N, C, H, W)")
BYTES = Kind("bytes", Field.INPUTS, "uint8 images, 0 to 255, (N, C, H, W)")
UNIT = Kind("unit", Field.INPUTS, "float images, 0 to 1, (N, C, H, W)")
NORMALIZED = Kind("normalized", Field.INPUTS, "float images with mean 0, (N, C, H, W)")
FEATURES = Kind("features", Field.INPUTS, "float vectors, (N, ...)")
TOKENS = Kind("tokens", Field.INPUTS, "token indices, int64, (N, L)")

TARGET_KINDS = (INDEX, DENSE, MULTI_HOT, REAL)
INPUT_KINDS = (IMAGE, BYTES, UNIT, NORMALIZED, FEATURES, TOKENS)
IMAGES = frozenset({IMAGE, BYTES, UNIT, NORMALIZED})
"""Input kinds that have positions to cut and fill."""
CONTINUOUS = frozenset({IMAGE, UNIT, NORMALIZED, FEATURES})
"""Input kinds that can be averaged."""
MIXABLE = frozenset({DENSE, MULTI_HOT, REAL})
"""Target kinds that can be averaged."""


@dataclass(frozen=True)
class Task:
    """What is learnt: its name and the kind of target that the data holds for it."""

    name: str
    targets: Kind
    classes: bool
    """Whether the targets range over a number of classes."""
    positions: bool = False
    """Whether a sample has a target for each of its positions."""

    def __post_init__(self) -> None:
        instance("name", self.name, str, "'multiclass'")
        instance("targets", self.targets, Kind, "INDEX")
        flag("classes", self.classes)


TASKS = {
    task.name: task
    for task in (
        Task("multiclass", INDEX, classes=True),
        Task("segmentation", INDEX, classes=True, positions=True),
        Task("multilabel", MULTI_HOT, classes=True),
        Task("regression", REAL, classes=False),
    )
}


@dataclass(frozen=True)
class Slot:
    """Something that methods may own: alone, or together where each of them allows it.

    ``code`` is the fault of two owners, and ``why`` says what goes wrong if both act. ``per_batch`` slots are free
    again for the next batch. Two owners may then both be listed if their schedules never overlap, or if one of them is
    chosen for each batch.
    """

    name: str
    why: str
    code: str = "two-owners"
    per_batch: bool = False
    remedy: str = "keep one of them"

    def __post_init__(self) -> None:
        for name in ("name", "why", "code", "remedy"):
            instance(name, getattr(self, name), str, "'mixing'")
        flag("per_batch", self.per_batch)


@dataclass(frozen=True)
class Claim:
    """A declaration that a method owns a slot, alone unless ``shared``; ``amount`` says how much of it."""

    slot: Slot
    shared: bool = False
    amount: float | None = None

    def __post_init__(self) -> None:
        instance("slot", self.slot, Slot, "Slot('mixing', 'each would mix samples')")
        flag("shared", self.shared)
        if self.amount is not None:
            real_number("amount", self.amount)

    def of(self, amount: float) -> Claim:
        """Return this claim with the amount that an instance takes of the slot."""
        return replace(self, amount=amount)


MIXING = Claim(
    Slot(
        "mixing",
        "each would mix samples that the other has mixed already, and shares of area do not multiply",
        code="two-mixers",
        per_batch=True,
        remedy="let one of them act on each batch",
    )
)
SMOOTHING = Claim(
    Slot(
        "smoothing",
        "targets would be smoothed twice",
        code="double-smoothing",
        per_batch=True,
        remedy="smooth in one place",
    )
)
EVALUATION_WEIGHTS = Claim(Slot("evaluation weights", "each would put other weights into the model for evaluation"))
OPTIMIZER_STEP = Claim(Slot("optimizer step", "each would run the forward and backward passes its own way"))
BATCH_SIZE = Claim(Slot("batch size", "each would change how many samples a batch holds"))


def names(kinds: Iterable[Kind]) -> str:
    """List kinds in words, sorted."""
    return ", ".join(sorted(kind.name for kind in kinds))
