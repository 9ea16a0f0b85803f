"""The steps of a plan: what edits a batch, and what edits training state at an event."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from counterpoint.core.declare.effects import HookEffect, TransformEffect
from counterpoint.core.declare.kinds import Field, Kind
from counterpoint.core.plan.member import Member
from counterpoint.core.plan.schedule import Schedule

__all__ = ["BatchStep", "HookStep"]


@dataclass(frozen=True)
class BatchStep:
    """A step that edits the batch: a method's transform, or a choice among methods.

    ``effects`` is one effect, or one for each branch of a choice; ``method`` names the transform, ``None`` for a
    choice. The checker ``inserted`` it, or the user listed it; a ``final`` one comes behind every other, for the loss.
    ``before`` and ``after`` are the kinds of each field on its two sides, once it has its place.
    """

    name: str
    work: Member
    effects: tuple[TransformEffect, ...]
    method: str | None = None
    inserted: bool = False
    final: bool = False
    before: dict[Field, Kind] = field(default_factory=dict)
    after: dict[Field, Kind] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The name of the member that it belongs to."""
        return self.work.identity

    @property
    def schedule(self) -> Schedule:
        """When it acts."""
        return self.work.schedule

    @cached_property
    def compiles(self) -> bool:
        """Whether it may be part of a compiled function: its draws and its results have always the same form."""
        return not any(effect.eager or effect.sample_losses or effect.resizes for effect in self.effects)

    @cached_property
    def gives(self) -> dict[Field, Kind]:
        """The fields that it turns into another kind, with that kind."""
        edits = [(part, edit) for effect in self.effects for part, edit in effect.edits.items()]
        return {part: self.after[part] for part, edit in edits if edit.gives == self.after.get(part)}


@dataclass(frozen=True)
class HookStep:
    """A step that edits training state at an event."""

    inserted: ClassVar[bool] = False
    name: str
    work: Member
    effect: HookEffect

    @property
    def identity(self) -> str:
        """The name of the member that it belongs to."""
        return self.name
