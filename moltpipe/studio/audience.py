"""The second vote: which variant of a pilot the audience likes best.

Here: the decision and the document that records it, pure. Not here: casting and counting the votes, moving the
selection (`ledger.audience`), the vote on scripts (`studio.voting`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Period


class VariantVotes(BaseModel):
    """A variant that stands in the vote, and how many have voted for it."""

    model_config = ConfigDict(frozen=True)

    variant_id: UUID
    variant_number: int
    votes: int


class NothingToSelect(ValueError):
    """A vote on variants was to be decided, and there is none of them."""

    def __init__(self, period: Period, partition_key: str) -> None:
        super().__init__(
            f"{partition_key} has no variants to select from, although period {period.id} is a vote on them: "
            "produce it again"
        )
        self.period_id = period.id
        self.partition_key = partition_key


class ClipOutcome(BaseModel):
    """The recorded result of a vote on variants: what a second closer gets, and what the operator reads for ever."""

    model_config = ConfigDict(frozen=True)

    period_type: Literal["clip_voting"] = "clip_voting"
    period_id: UUID
    episode_id: UUID
    partition_key: str
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    closed_early_reason: str | None = None
    votes: int
    selected: VariantVotes
    ranking: tuple[VariantVotes, ...]
    """Best first."""
    reconstructed_at: AwareDatetime | None = None
    """When this was put together from the rows, for a vote that was decided without it; None as a rule."""

    @property
    def summary(self) -> str:
        """The outcome in one line, for the operator."""
        number = self.selected.variant_number
        if self.reconstructed_at is not None:
            return (
                f"variant {number} of {self.partition_key} is selected, with {self.selected.votes} of {self.votes} "
                f"votes (put together afterwards, at {spelled(self.reconstructed_at)})"
            )
        if not self.votes:
            return f"nobody voted: variant {number} of {self.partition_key} is selected, the lowest number"
        counted = f"{self.selected.votes} of {self.votes} {'vote' if self.votes == 1 else 'votes'}"
        rivals = [one for one in self.ranking if one != self.selected and one.votes == self.selected.votes]
        tie = ", the lowest number of those that have as many" if rivals else ""
        return f"variant {number} of {self.partition_key} is selected with {counted}{tie}"

    def to_json(self) -> dict[str, Any]:
        """The document for `voting_periods.outcome`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, document: object) -> ClipOutcome:
        """Read what `to_json` wrote.

        Raises:
            pydantic.ValidationError: it is something else.
        """
        return cls.model_validate(document)


def ranked(standing: Iterable[VariantVotes]) -> tuple[VariantVotes, ...]:
    """Variants by votes, then the lower number first: where nobody voted, that is variant 1."""
    return tuple(sorted(standing, key=lambda one: (-one.votes, one.variant_number)))


def decide(
    period: Period,
    partition_key: str,
    standing: Iterable[VariantVotes],
    *,
    closed_early_reason: str | None = None,
) -> ClipOutcome:
    """The outcome of a vote on the variants of the pilot with this partition key.

    Raises:
        NothingToSelect: no variant stands in it.
        ValueError: the period is a vote on scripts.
    """
    if period.episode_id is None:
        raise ValueError(f"period {period.id} is {period.period_type}: expected a vote on the variants of an episode")
    ranking = ranked(standing)
    if not ranking:
        raise NothingToSelect(period, partition_key)
    return ClipOutcome(
        period_id=period.id,
        episode_id=period.episode_id,
        partition_key=partition_key,
        starts_at=period.starts_at,
        ends_at=period.ends_at,
        closed_early_reason=closed_early_reason,
        votes=sum(one.votes for one in ranking),
        selected=ranking[0],
        ranking=ranking,
    )


def agent_voter(agent_name: str) -> str:
    """The key under which an agent votes. The prefix leaves room for voters of other kinds, such as people."""
    return f"agent:{agent_name}"
