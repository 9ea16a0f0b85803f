"""What a transform or a hook does, as data: declared once, checked by ``compose``, run by the engine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, StrEnum
from functools import cached_property
from typing import Any

from counterpoint.core.arguments import flag, instance, instances, real_number
from counterpoint.core.declare.events import Event
from counterpoint.core.declare.kinds import Axis, Claim, Field, Kind

__all__ = ["Contract", "Declaration", "Edit", "Form", "HookEffect", "Law", "Phase", "TransformEffect"]


class Form(IntEnum):
    """The algebra of an edit, each form including the ones before it."""

    SELECT = 0
    """Each value of the result is one of the values it came from."""
    AVERAGE = 1
    """Each value of the result is an average with weights that sum to 1."""
    LINEAR = 2
    AFFINE = 3
    """Linear, plus a constant."""
    NONLINEAR = 4


@dataclass(frozen=True)
class Edit:
    """What a transform does to one field.

    ``needs`` are the kinds it can take; ``gives`` is the kind of the result, or ``None`` for an unchanged kind.
    ``acts`` are the axes that it mixes values over, ``varies`` those along which the edit differs. ``fills`` is the
    constant that it fills regions with. ``resizes`` says that it changes the extent of an axis.
    ``differentiable=False`` says that the result has no useful gradient with respect to the field: a field that
    requires one is then refused.
    """

    needs: frozenset[Kind]
    gives: Kind | None = None
    acts: frozenset[Axis] = frozenset()
    varies: frozenset[Axis] = frozenset()
    form: Form = Form.SELECT
    fills: float | None = None
    resizes: bool = False
    differentiable: bool = True

    def __post_init__(self) -> None:
        instances("needs", self.needs, Kind, "frozenset({DENSE})")
        for name in ("acts", "varies"):
            instances(name, getattr(self, name), Axis, "frozenset({Axis.SAMPLE})")
        instance("form", self.form, Form, "Form.SELECT")
        if self.gives is not None:
            instance("gives", self.gives, Kind, "DENSE")
        if self.fills is not None:
            real_number("fills", self.fills)
        flag("resizes", self.resizes)
        flag("differentiable", self.differentiable)


def _edit(
    form: Form, *, acts: Collection[Axis] = (), varies: Collection[Axis] = (), fills: float | None = None
) -> Edit:
    return Edit(frozenset(), acts=frozenset(acts), varies=frozenset(varies), form=form, fills=fills)


class Law(Enum):
    """Names for effects that many methods share, each short for an ``Edit`` of each field."""

    CONVEX = (
        _edit(Form.AVERAGE, acts=[Axis.SAMPLE]),
        _edit(Form.AVERAGE, acts=[Axis.SAMPLE]),
    )
    """Averages of samples, the same at every position (MixUp)."""
    PASTE = (
        _edit(Form.SELECT, acts=[Axis.SAMPLE], varies=[Axis.POSITION]),
        _edit(Form.AVERAGE, acts=[Axis.SAMPLE], varies=[Axis.POSITION]),
    )
    """Regions taken from other samples, with targets by their share (CutMix)."""
    PATCHWORK = (
        _edit(Form.SELECT, acts=[Axis.SAMPLE, Axis.POSITION], varies=[Axis.SAMPLE, Axis.POSITION]),
        _edit(Form.AVERAGE, acts=[Axis.SAMPLE, Axis.POSITION], varies=[Axis.SAMPLE, Axis.POSITION]),
    )
    """Regions from other positions of other samples, with targets mixed by their share or moved with them (RICAP)."""
    FILL = (
        _edit(Form.AFFINE, varies=[Axis.SAMPLE, Axis.POSITION], fills=0.0),
        _edit(Form.SELECT),
    )
    """Regions of each sample replaced by a constant (CutOut)."""
    REDISTRIBUTE = (
        _edit(Form.AFFINE, acts=[Axis.CHANNEL]),
        _edit(Form.AFFINE, acts=[Axis.CHANNEL]),
    )
    """Mass moved between the channels or classes of each position, or towards a constant (label smoothing)."""
    RESCALE = (
        _edit(Form.AFFINE, varies=[Axis.CHANNEL]),
        _edit(Form.AFFINE, varies=[Axis.CHANNEL]),
    )
    """One affine map for each channel (normalisation)."""
    RECOLOR = (
        _edit(Form.NONLINEAR, acts=[Axis.CHANNEL], varies=[Axis.SAMPLE]),
        _edit(Form.NONLINEAR, acts=[Axis.CHANNEL], varies=[Axis.SAMPLE]),
    )
    """Any map of each position's channels, another for each sample (colour jitter)."""
    DISPLACE = (
        _edit(Form.LINEAR, acts=[Axis.POSITION], varies=[Axis.SAMPLE]),
        _edit(Form.LINEAR, acts=[Axis.POSITION], varies=[Axis.SAMPLE]),
    )
    """Positions moved or interpolated, otherwise for each sample (flips, rotations)."""

    def edit(self, part: Field, needs: frozenset[Kind]) -> Edit:
        """Return what the law says of a field, inputs or targets, for the kinds that a method can take."""
        inputs, targets = self.value
        return replace(inputs if part is Field.INPUTS else targets, needs=needs)


@dataclass(frozen=True)
class TransformEffect:
    """A declared pure edit of the batch by the method named ``method``, at the line ``where``."""

    method: str
    edits: Mapping[Field, Edit]
    claims: tuple[Claim, ...] = ()
    reads: frozenset[Field] = frozenset()
    unedited: bool = False
    sample_losses: bool = False
    eager: bool = False
    where: str = field(default="", compare=False)

    @cached_property
    def signature(self) -> str:
        """Everything by which it is ordered, as text: effects with the same text are ordered in the same way."""
        parts = []
        for part, edit in sorted(self.edits.items()):
            axes = f"{'+'.join(sorted(edit.acts))}/{'+'.join(sorted(edit.varies))}"
            kinds = f"{'+'.join(sorted(kind.name for kind in edit.needs))}>{edit.gives}"
            parts.append(f"{part.value}:{edit.form:d}:{axes}:{kinds}:{edit.fills}:{edit.resizes:d}")
        return f"{';'.join(parts)}|{'+'.join(sorted(self.reads))}|{self.unedited:d}"

    @property
    def across_samples(self) -> bool:
        """Whether it mixes values of several samples."""
        return any(Axis.SAMPLE in edit.acts for edit in self.edits.values())

    @property
    def fills(self) -> bool:
        """Whether it leaves regions of a constant."""
        return any(edit.fills is not None for edit in self.edits.values())

    @property
    def resizes(self) -> bool:
        """Whether it changes the extent of an axis."""
        return any(edit.resizes for edit in self.edits.values())


class Contract(StrEnum):
    """When steps and hooks are checked against their declarations."""

    OFF = "off"
    FIRST_STEPS = "first_steps"
    """On the first two batches of each step and hook after a start: see ``docs/the-loop.md`` for what is found."""
    ALWAYS = "always"
    """On every batch, and with checksums of parameters and gradients around each hook: for tests."""

    def steps_alone(self, step: int) -> bool:
        """Whether the steps of a compiled plan run one by one on the device batch of this number."""
        return self is Contract.ALWAYS or (self is Contract.FIRST_STEPS and step < 2)


class Phase(StrEnum):
    """When a hook runs, seen from the span it belongs to."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"
    REPLACE = "replace"


@dataclass(frozen=True)
class HookEffect:
    """A declared edit of training state by the method named ``method``, at the line ``where``."""

    method: str
    event: Event
    phase: Phase
    reads: frozenset[Field] = frozenset()
    writes: frozenset[Field] = frozenset()
    restores: frozenset[Field] = frozenset()
    claims: tuple[Claim, ...] = ()
    whole_batch: bool = False
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Declaration:
    """Everything that an algorithm declares.

    ``tasks`` are those for which an instance has a meaning, where its settings leave fewer than its class has.
    """

    transforms: tuple[TransformEffect, ...] = ()
    hooks: tuple[HookEffect, ...] = ()
    tasks: frozenset[str] | None = None

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Every claim of a transform or a hook."""
        by_transforms = tuple(claim for effect in self.transforms for claim in effect.claims)
        return by_transforms + tuple(claim for effect in self.hooks for claim in effect.claims)

    def refine(self, method: str, part: Field, **changes: Any) -> Declaration:
        """Return this declaration with an edit made more exact by an instance's settings.

        ``method`` and ``part`` name the transform and its field; ``changes`` are attributes of ``Edit``.
        """
        return replace(
            self,
            transforms=tuple(
                replace(t, edits={**t.edits, part: replace(t.edits[part], **changes)}) if t.method == method else t
                for t in self.transforms
            ),
        )

    def extend(self, method: str, part: Field, edit: Edit) -> Declaration:
        """Return this declaration with an edit of one more field, which an instance makes by its settings."""
        return replace(
            self,
            transforms=tuple(
                replace(t, edits={**t.edits, part: edit}) if t.method == method else t for t in self.transforms
            ),
        )

    def only(self, *tasks: str) -> Declaration:
        """Return this declaration for an instance that by its settings has a meaning for these tasks alone."""
        return replace(self, tasks=frozenset(tasks))

    def claim(self, **amounts: float) -> Declaration:
        """Return this declaration with the amount that an instance takes of its slots; one keyword for each method."""
        return replace(
            self,
            transforms=tuple(
                replace(t, claims=tuple(claim.of(amounts[t.method]) for claim in t.claims))
                if t.method in amounts
                else t
                for t in self.transforms
            ),
        )
