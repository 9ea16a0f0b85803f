"""The randomness of one device batch: whether each member acts, and which branch a choice takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from counterpoint.core.declare.randomness import Rng
from counterpoint.core.plan.member import Member

__all__ = ["Dice"]


@dataclass(frozen=True)
class Dice:
    """The randomness of one device batch: whether each member acts, and which branch a choice takes."""

    seed: int
    step: int
    rank: int

    def acts(self, member: Member) -> bool:
        """Whether the member acts on this batch, by its schedule and its coin."""
        if not member.schedule.covers(self.step):
            return False
        return member.schedule.p >= 1 or self._rng(member, "coin").coin(member.schedule.p)

    def chosen(self, member: Member) -> Member:
        """Return the branch of a choice that this batch gets."""
        return member.branches[self._rng(member, "choice").choice(member.weights)]

    def acting(self, members: Sequence[Member]) -> Iterator[tuple[Member, Member | None]]:
        """Give every member that acts on this batch; a choice with the branch that it chooses, and then that branch."""
        for member in members:
            if self.acts(member):
                chosen = self.chosen(member) if member.branches else None
                yield member, chosen
                if chosen is not None:
                    yield from self.acting([chosen])

    def _rng(self, member: Member, purpose: str) -> Rng:
        """Return the generator of a coin or a choice; equal calls return equal generators."""
        stream = f"{member.identity}/{purpose}"
        return Rng(self.seed, stream, self.step, None if member.acts_alike else self.rank)
