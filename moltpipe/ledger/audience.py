"""The second vote: opened when a pilot's variants are out, cast, closed, and what the series serves since.

Here: the transactions. Not here: who wins (`studio.audience`), the votes on scripts (`ledger.votes`,
`ledger.periods`); `now` is always handed in.

The old system counted votes in a column beside them and let one voter back all four variants. Here they are counted
from their rows, and the database keeps a voter to one variant of an episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from moltpipe.ledger.production import UnknownEpisode
from moltpipe.ledger.schema import clip_variants, clip_votes, episodes, voting_periods, voting_settings
from moltpipe.ledger.series import EPISODES, episode_of
from moltpipe.ledger.votes import OutsideWindow, VoteRefused
from moltpipe.ledger.windows import (
    PERIODS,
    OutcomeMissing,
    OutcomeUnreadable,
    hold_period,
    may_close,
    must_be,
    period_from,
    record_outcome,
    recorded_outcome,
    share_period,
)
from moltpipe.studio.audience import ClipOutcome, VariantVotes, decide
from moltpipe.studio.moments import in_utc
from moltpipe.studio.records import Episode, Period
from moltpipe.studio.voting import may_vote

CLIP_VOTING = "clip_voting"
ClipBallotKind = Literal["cast", "moved", "unchanged", "withdrawn"]

_served = sa.table(
    "served_episodes",
    *(
        sa.column(name)
        for name in (
            "series_id",
            "episode_id",
            "episode_number",
            "partition_key",
            "clip_variant_id",
            "variant_number",
            "video_key",
            "captions_key",
            "thumbnail_key",
            "duration_seconds",
        )
    ),
)


@dataclass(frozen=True)
class ClipBallot:
    """What became of a vote, and where the variants stand after it."""

    kind: ClipBallotKind
    partition_key: str
    variant: VariantVotes | None
    """What the voter votes for now; None after a withdrawal."""
    standing: tuple[VariantVotes, ...]
    """By variant number."""


@dataclass(frozen=True)
class Served:
    """What viewers of a series get to see of one episode: its selected variant."""

    series_id: UUID
    episode_id: UUID
    episode_number: int
    partition_key: str
    clip_variant_id: UUID
    variant_number: int
    video_key: str
    captions_key: str
    thumbnail_key: str
    duration_seconds: float


class UnknownVariant(VoteRefused):
    """There is no such variant."""

    def __init__(self, named: str, expected: str) -> None:
        super().__init__(f"there is no variant {named}{expected}")
        self.named = named


class NoClipVote(VoteRefused):
    """The variants of the episode are not voted on."""

    def __init__(self, partition_key: str, reason: str) -> None:
        super().__init__(f"the variants of {partition_key} are not voted on: {reason}")
        self.partition_key = partition_key
        self.reason = reason


def open_clip_vote(db: Connection, episode_id: UUID, now: datetime) -> Period | None:
    """Open the vote on the variants of an episode, from now on, for as long as the settings say. Once per episode.

    The unique index decides, not a look beforehand: of two that see the last variant at once, one opens the vote.

    Returns:
        The period that was opened; None when there is or was one, when not all variants are out, when the episode is
        to have only one, or when one is selected already.

    Raises:
        UnknownEpisode: there is no such episode.
        ValueError: `now` has no time zone.
    """
    now = in_utc(now)
    episode = find_episode(db, str(episode_id))
    if episode.variants_wanted == 1:
        return None
    of_episode = clip_variants.c.episode_id == episode.id
    published = db.execute(
        sa.select(
            sa.func.count().filter(clip_variants.c.variant_number <= episode.variants_wanted).label("out"),
            sa.func.count().filter(clip_variants.c.is_selected).label("selected"),
        ).where(of_episode)
    ).one()
    if published.out < episode.variants_wanted or published.selected:
        return None
    minutes = db.execute(sa.select(voting_settings.c.clip_voting_minutes)).scalar_one()
    row = db.execute(
        insert(voting_periods)
        .values(
            period_type=CLIP_VOTING,
            episode_id=episode.id,
            starts_at=now,
            ends_at=now + timedelta(minutes=minutes),
            is_active=True,
        )
        .on_conflict_do_nothing(index_elements=["episode_id"])
        .returning(*PERIODS.selected_columns)
    ).one_or_none()
    return None if row is None else period_from(row)


def cast_clip_vote(db: Connection, variant_id: UUID, voter_key: str, now: datetime) -> ClipBallot:
    """Count a vote for a variant. A vote for another one of the episode moves there; the same again changes nothing.

    Holds the period in share mode until the end of the transaction, so that a closing waits for this vote or
    this vote finds the period closed.

    Raises:
        UnknownVariant: there is no such variant.
        NoClipVote: the variants of its episode are not voted on.
        OutsideWindow: the vote is over.
    """
    variant = db.execute(
        sa.select(clip_variants.c.episode_id, clip_variants.c.variant_number).where(clip_variants.c.id == variant_id)
    ).one_or_none()
    if variant is None:
        raise UnknownVariant(str(variant_id), "")
    episode = _enter(db, variant.episode_id, voter_key, now)
    mine = sa.and_(clip_votes.c.episode_id == episode.id, clip_votes.c.voter_key == voter_key)
    former = db.execute(sa.select(clip_votes.c.clip_variant_id).where(mine)).scalar_one_or_none()
    kind: ClipBallotKind
    if former is None:
        kind = "cast"
        db.execute(
            sa.insert(clip_votes).values(
                clip_variant_id=variant_id, episode_id=episode.id, voter_key=voter_key, cast_at=now
            )
        )
    elif former == variant_id:
        kind = "unchanged"
    else:
        kind = "moved"
        db.execute(sa.update(clip_votes).where(mine).values(clip_variant_id=variant_id, cast_at=now))
    return _ballot(db, kind, episode, variant_id)


def withdraw_clip_vote(db: Connection, episode_id: UUID, voter_key: str, now: datetime) -> ClipBallot:
    """Take back a voter's vote on an episode, whichever variant it was for. Where there is none, nothing changes.

    Raises:
        UnknownEpisode: there is no such episode.
        NoClipVote: its variants are not voted on.
        OutsideWindow: the vote is over.
    """
    episode = _enter(db, episode_id, voter_key, now)
    mine = sa.and_(clip_votes.c.episode_id == episode.id, clip_votes.c.voter_key == voter_key)
    withdrawn = db.execute(sa.delete(clip_votes).where(mine)).rowcount
    return _ballot(db, "withdrawn" if withdrawn else "unchanged", episode, None)


def close_clip_vote(db: Connection, period_id: UUID, now: datetime, reason: str | None = None) -> ClipOutcome:
    """Record the outcome of a vote on variants and select the winner, whole or not at all.

    Holds the period: a second closer waits, then gets the recorded outcome. Before the end only with a `reason`, which
    is recorded; one for a vote that is over is not needed and not kept.

    Raises:
        UnknownPeriodId: there is no such period.
        OtherVote: it is a vote on scripts.
        PeriodNotOver: `ends_at` lies in the future, and no reason was given.
        ReasonMissing: the reason is empty.
        OutcomeMissing, OutcomeUnreadable: it was marked as processed by hand.
        NothingToSelect: the episode's variants are gone.
    """
    period = hold_period(db, period_id)
    must_be(period, CLIP_VOTING)
    if period.is_processed:
        return recorded_outcome(db, period.id, ClipOutcome)
    early = may_close(period, now, reason)
    outcome = _decide(db, period, early)
    _select(db, outcome)
    record_outcome(db, period.id, outcome.to_json(), now, closed_early_reason=early)
    return outcome


def select_as_decided(db: Connection, period_id: UUID) -> ClipOutcome:
    """Select the variant that a processed vote decided on, where somebody took the selection away by hand.

    It is the one of the recorded outcome. Where that cannot be read, or its variant is gone, the votes are counted
    again, and that is recorded.

    Raises:
        UnknownPeriodId: there is no such period.
        OtherVote: it is a vote on scripts.
        NothingToSelect: the episode's variants are gone.
        ValueError: the vote is not processed; `close_clip_vote` decides it.
    """
    period = hold_period(db, period_id)
    must_be(period, CLIP_VOTING)
    if not period.is_processed:
        raise ValueError(f"period {period.id} is not processed: expected one that was decided")
    try:
        outcome = recorded_outcome(db, period.id, ClipOutcome)
        _select(db, outcome)
    except (OutcomeMissing, OutcomeUnreadable, UnknownVariant):
        outcome = _decide(db, period, period.closed_early_reason)
        _select(db, outcome)
        written = {"outcome": outcome.to_json(), "told_at": None}
        db.execute(sa.update(voting_periods).where(voting_periods.c.id == period.id).values(written))
    return outcome


def clip_outcome(db: Connection, period_id: UUID) -> ClipOutcome:
    """The recorded outcome of a processed vote on variants.

    Raises:
        OutcomeMissing: there is none.
        OutcomeUnreadable: it is something else.
    """
    return recorded_outcome(db, period_id, ClipOutcome)


def clip_vote_of(db: Connection, episode_id: UUID) -> Period | None:
    """The vote on the variants of an episode, whatever its state; None while there is none."""
    row = db.execute(PERIODS.where(voting_periods.c.episode_id == episode_id)).one_or_none()
    return None if row is None else period_from(row)


def outcome_of(db: Connection, episode_id: UUID) -> ClipOutcome | None:
    """The recorded outcome of the vote on an episode's variants; None while it is on, or where there is none.

    Raises:
        OutcomeMissing, OutcomeUnreadable: it was marked as processed by hand.
    """
    period = clip_vote_of(db, episode_id)
    return clip_outcome(db, period.id) if period is not None and period.is_processed else None


def pilots_of(db: Connection, *, unprocessed_only: bool = False) -> dict[UUID, str]:
    """What votes on variants are about: the pilot's partition key, by the period's id."""
    statement = sa.select(voting_periods.c.id, episodes.c.partition_key).join(
        episodes, episodes.c.id == voting_periods.c.episode_id
    )
    if unprocessed_only:
        statement = statement.where(~voting_periods.c.is_processed)
    return {row.id: row.partition_key for row in db.execute(statement)}


def standing_of(db: Connection, episode_id: UUID) -> tuple[VariantVotes, ...]:
    """The variants of an episode with their votes counted, by variant number."""
    rows = db.execute(
        sa.select(
            clip_variants.c.id, clip_variants.c.variant_number, sa.func.count(clip_votes.c.voter_key).label("votes")
        )
        .outerjoin(clip_votes, clip_votes.c.clip_variant_id == clip_variants.c.id)
        .where(clip_variants.c.episode_id == episode_id)
        .group_by(clip_variants.c.id)
        .order_by(clip_variants.c.variant_number)
    )
    return tuple(VariantVotes(variant_id=row.id, variant_number=row.variant_number, votes=row.votes) for row in rows)


def served(db: Connection, series_id: UUID) -> list[Served]:
    """What a series serves: the selected variant of each episode that has one, in the order of the episodes."""
    rows = db.execute(
        sa.select(_served).where(_served.c.series_id == series_id).order_by(_served.c.episode_number)
    ).mappings()
    return [Served(**row) for row in rows]


def find_episode(db: Connection, named: str) -> Episode:
    """An episode by its partition key or its id.

    Raises:
        UnknownEpisode: there is none.
    """
    try:
        wanted = episodes.c.id == UUID(named)
    except ValueError:
        wanted = episodes.c.partition_key == named
    row = db.execute(EPISODES.where(wanted)).one_or_none()
    if row is None:
        raise UnknownEpisode(named)
    return episode_of(row)


def find_variant(db: Connection, episode: Episode, number: int) -> UUID:
    """The id of a published variant.

    Raises:
        UnknownVariant: the episode has none of this number.
    """
    found = {one.variant_number: one.variant_id for one in standing_of(db, episode.id)}
    if number not in found:
        out = ", ".join(map(str, found)) or "none"
        raise UnknownVariant(str(number), f" of {episode.partition_key}: these are out: {out}")
    return found[number]


def _enter(db: Connection, episode_id: UUID, voter_key: str, now: datetime) -> Episode:
    """The episode, once it is sure that this voter may vote on it until the end of the transaction."""
    episode = find_episode(db, str(episode_id))
    found = clip_vote_of(db, episode.id)
    if found is None:
        raise NoClipVote(episode.partition_key, _why_not(db, episode))
    period = share_period(db, found.id)
    refusal = may_vote(period, now)
    if refusal is not None:
        raise OutsideWindow(period.starts_at, period.ends_at, now, refusal)
    # One voter's votes on one episode come one after the other, so that each knows what it changes.
    voter = sa.func.hashtextextended(f"{episode.id} {voter_key}", 0)
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(voter)))
    return episode


def _why_not(db: Connection, episode: Episode) -> str:
    if episode.variants_wanted == 1:
        return "it has only one"
    published = standing_of(db, episode.id)
    if len(published) < episode.variants_wanted:
        return f"{len(published)} of {episode.variants_wanted} are out, and the vote opens with the last of them"
    selected = db.execute(
        sa.select(clip_variants.c.variant_number).where(
            clip_variants.c.episode_id == episode.id, clip_variants.c.is_selected
        )
    ).scalar_one_or_none()
    if selected is not None:
        return f"variant {selected} was selected without a vote"
    return "no vote was opened when they came out: `moltpipe check` says more, `moltpipe repair` opens it"


def _ballot(db: Connection, kind: ClipBallotKind, episode: Episode, variant_id: UUID | None) -> ClipBallot:
    standing = standing_of(db, episode.id)
    mine = next((one for one in standing if one.variant_id == variant_id), None)
    return ClipBallot(kind=kind, partition_key=episode.partition_key, variant=mine, standing=standing)


def _decide(db: Connection, period: Period, closed_early_reason: str | None) -> ClipOutcome:
    episode = find_episode(db, str(period.episode_id))
    return decide(period, episode.partition_key, standing_of(db, episode.id), closed_early_reason=closed_early_reason)


def _select(db: Connection, outcome: ClipOutcome) -> None:
    """Move the selection. In two statements: a unique index is looked at row by row, in whichever order they lie."""
    of_episode = clip_variants.c.episode_id == outcome.episode_id
    winner = clip_variants.c.id == outcome.selected.variant_id
    db.execute(
        sa.update(clip_variants).where(of_episode, ~winner, clip_variants.c.is_selected).values(is_selected=False)
    )
    if not db.execute(sa.update(clip_variants).where(of_episode, winner).values(is_selected=True)).rowcount:
        raise UnknownVariant(str(outcome.selected.variant_id), f" of {outcome.partition_key}")
