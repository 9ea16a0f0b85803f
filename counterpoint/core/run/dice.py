"""The randomness of one device batch: whether each member acts, which branch it chooses, and its generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from counterpoint.core.declare.randomness import Rng
from counterpoint.core.plan.member import Member

__all__ = ["Dice"]


@dataclass(frozen=True)
class Dice:
    """The randomness of one device batch: gives each member its own generator."""

    seed: int
    step: int
    rank: int

    def rng(self, member: Member, purpose: str = "") -> Rng:
        """Return the generator of a member; equal calls return equal generators.

        Without a ``purpose`` it is that of its draws; ``coin`` and ``choice`` say whether and how it acts.
        """
        stream = f"{member.identity}/{purpose}" if purpose else member.identity
        alike = member.acts_alike if purpose else member.rank_free
        return Rng(self.seed, stream, self.step, None if alike else self.rank)

    def acts(self, member: Member) -> bool:
        """Whether the member acts on this batch, by its schedule and its coin."""
        if not member.schedule.covers(self.step):
            return False
        return member.schedule.p >= 1 or self.rng(member, "coin").coin(member.schedule.p)

    def chosen(self, member: Member) -> Member:
        """Return the branch of a choice that this batch gets."""
        return member.branches[self.rng(member, "choice").choice(member.weights)]

    def acting(self, members: Sequence[Member]) -> Iterator[tuple[Member, Member | None]]:
        """Give every member that acts on this batch; a choice with the branch that it chooses, and then that branch."""
        for member in members:
            if self.acts(member):
                chosen = self.chosen(member) if member.branches else None
                yield member, chosen
                if chosen is not None:
                    yield from self.acting([chosen])
