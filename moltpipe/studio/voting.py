"""Voting: who won, which periods open and close, and when the next one is.

Here: the rules, pure, with `now` handed in. Not here: writing an outcome (`ledger.periods`), casting a
vote (`ledger.votes`), ticking (`defs.voting`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from moltpipe.studio.moments import in_utc, spelled
from moltpipe.studio.records import Candidate, Period

IMMEDIATE_DELAY = timedelta(seconds=5)
"""An immediate period starts this long after it was made."""
ABOUT_TO_START = timedelta(minutes=10)
"""No immediate period is made while another one starts within this time."""


class WinnerScope(StrEnum):
    """Among whom one script wins. The old system's documents said per genre, its code did per period."""

    GENRE = "genre"
    PERIOD = "period"


class Cadence(StrEnum):
    """How often a voting period starts."""

    WEEKLY = "weekly"
    DAILY = "daily"
    IMMEDIATE = "immediate"


class Fate(StrEnum):
    """What a script becomes when its period closes. The values are those of `scripts.pilot_status`."""

    SELECTED = "selected"
    REJECTED = "rejected"
    RETURNED = "submitted"


class VotingRules(BaseModel):
    """What it takes to win."""

    model_config = ConfigDict(frozen=True)

    winner_scope: WinnerScope = WinnerScope.GENRE
    min_votes: int = Field(default=1, ge=1)
    """Votes cast on the script, whichever way."""
    min_score: int = 1
    """Upvotes less downvotes."""


class VotingSettings(VotingRules):
    """Rules and rhythm of the votes, as they lie in the ledger."""

    cadence: Cadence = Cadence.WEEKLY
    voting_minutes: int = Field(default=1440, ge=1, le=43200)
    clip_voting_minutes: int = Field(default=2880, ge=1, le=20160)
    """How long the variants of a pilot are voted on, from the moment that the last of them is out."""
    start_weekday: int = Field(default=0, ge=0, le=6)
    """Monday is 0."""
    start_hour_utc: int = Field(default=0, ge=0, le=23)

    @property
    def rules(self) -> VotingRules:
        """The rules alone."""
        return VotingRules(winner_scope=self.winner_scope, min_votes=self.min_votes, min_score=self.min_score)


@dataclass(frozen=True)
class Standing:
    """Where a candidate ended up among those it stood against."""

    candidate: Candidate
    scope: str
    """The genre, or `period` where one script wins over all genres."""
    rank: int
    """From 1, within the scope."""
    fate: Fate


@dataclass(frozen=True)
class Tally:
    """A period's candidates, ranked. Every candidate is a winner, a loser or returned, and only one of them."""

    ranking: tuple[Standing, ...]
    """By scope, best first."""

    @property
    def winners(self) -> tuple[Candidate, ...]:
        """At most one per scope."""
        return self._with(Fate.SELECTED)

    @property
    def losers(self) -> tuple[Candidate, ...]:
        """Those that others voted past."""
        return self._with(Fate.REJECTED)

    @property
    def returned(self) -> tuple[Candidate, ...]:
        """Those that wait for the next period, since nobody voted in this one."""
        return self._with(Fate.RETURNED)

    @property
    def votes(self) -> int:
        """Votes cast in the period."""
        return sum(standing.candidate.votes for standing in self.ranking)

    def _with(self, fate: Fate) -> tuple[Candidate, ...]:
        return tuple(standing.candidate for standing in self.ranking if standing.fate is fate)


def tally(candidates: Iterable[Candidate], rules: VotingRules) -> Tally:
    """Rank a period's candidates and find the winners.

    Ranked by score, then upvotes, then the earlier submission, then the script's id: the last one says
    nothing, but without it two closers could name different winners. A script wins that ranks before every
    other of its scope that reaches the thresholds. Where nobody voted at all, nobody is turned down: all
    return to wait. The old system selected the earliest submission with a score of zero.
    """
    ranked = sorted(candidates, key=_standing_order)
    nobody_voted = not any(candidate.votes for candidate in ranked)
    by_scope: dict[str, list[Candidate]] = {}
    for candidate in ranked:
        by_scope.setdefault(_scope(candidate, rules), []).append(candidate)
    ranking: list[Standing] = []
    for scope, rivals in sorted(by_scope.items()):
        winner = next((one for one in rivals if _reaches(one, rules)), None)
        for rank, one in enumerate(rivals, start=1):
            fate = Fate.SELECTED if one is winner else Fate.RETURNED if nobody_voted else Fate.REJECTED
            ranking.append(Standing(candidate=one, scope=scope, rank=rank, fate=fate))
    return Tally(tuple(ranking))


class Winner(BaseModel):
    """A selected script and the series it became."""

    model_config = ConfigDict(frozen=True)

    script_id: UUID
    title: str
    genre: str
    agent_name: str
    series_id: UUID


class Row(BaseModel):
    """One line of the result."""

    model_config = ConfigDict(frozen=True)

    scope: str
    rank: int
    script_id: UUID
    title: str
    genre: str
    agent_name: str
    score: int
    upvotes: int
    downvotes: int
    fate: Fate


class Outcome(BaseModel):
    """The recorded result of a period: what a second closer gets, and what the operator reads for ever."""

    model_config = ConfigDict(frozen=True)

    period_id: UUID
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    closed_early_reason: str | None = None
    rules: VotingRules
    votes: int
    winners: tuple[Winner, ...]
    ranking: tuple[Row, ...]
    scopes_without_winner: tuple[str, ...] = ()
    reason: str | None = None
    """Why nobody won; None when somebody did."""
    reconstructed_at: AwareDatetime | None = None
    """When this was put together from the rows, for a period that was decided without it; None as a rule."""

    @property
    def summary(self) -> str:
        """The outcome in one line, for the operator."""
        later = f" (put together afterwards, at {spelled(self.reconstructed_at)})" if self.reconstructed_at else ""
        if self.reason is not None:
            return f"{self.reason}{later}"
        won = ", ".join(f"“{winner.title}” by {winner.agent_name} ({winner.genre})" for winner in self.winners)
        without = f"; no winner in {', '.join(self.scopes_without_winner)}" if self.scopes_without_winner else ""
        return f"{self.votes} votes; selected: {won}{without}{later}"

    def to_json(self) -> dict[str, Any]:
        """The document for `voting_periods.outcome`."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, document: object) -> Outcome:
        """Read what `to_json` wrote.

        Raises:
            pydantic.ValidationError: it is something else.
        """
        return cls.model_validate(document)


def declare(
    period: Period,
    counted: Tally,
    rules: VotingRules,
    series_ids: Mapping[UUID, UUID],
    *,
    closed_early_reason: str | None = None,
) -> Outcome:
    """The outcome of a tally, once every winner has its series. `series_ids` by script id.

    Raises:
        ValueError: a winner has no series. The incident that the project began with: a selected script
            that never got one.
    """
    orphans = [str(winner.script_id) for winner in counted.winners if winner.script_id not in series_ids]
    if orphans:
        raise ValueError(f"period {period.id}: expected a series for every winner, none for {', '.join(orphans)}")
    won = {standing.scope for standing in counted.ranking if standing.fate is Fate.SELECTED}
    return Outcome(
        period_id=period.id,
        starts_at=period.starts_at,
        ends_at=period.ends_at,
        closed_early_reason=closed_early_reason,
        rules=rules,
        votes=counted.votes,
        winners=tuple(
            Winner(
                script_id=winner.script_id,
                title=winner.title,
                genre=winner.genre,
                agent_name=winner.agent_name,
                series_id=series_ids[winner.script_id],
            )
            for winner in counted.winners
        ),
        ranking=tuple(
            Row(
                scope=standing.scope,
                rank=standing.rank,
                script_id=standing.candidate.script_id,
                title=standing.candidate.title,
                genre=standing.candidate.genre,
                agent_name=standing.candidate.agent_name,
                score=standing.candidate.score,
                upvotes=standing.candidate.upvotes,
                downvotes=standing.candidate.downvotes,
                fate=standing.fate,
            )
            for standing in counted.ranking
        ),
        scopes_without_winner=tuple(sorted({standing.scope for standing in counted.ranking} - won)),
        reason=_why_nobody(counted, rules),
    )


def periods_to_open(periods: Iterable[Period], now: datetime) -> list[Period]:
    """Periods whose time has come and is not over, and that took in no scripts yet; the earliest first."""
    due = [p for p in periods if p.starts_at <= now < p.ends_at and not p.is_active and not p.is_processed]
    return sorted(due, key=_by_start)


def periods_to_close(periods: Iterable[Period], now: datetime) -> list[Period]:
    """Periods whose time is over and whose outcome is not recorded yet; the earliest first.

    Looks at `ends_at` alone. The incident behind it: a period that was never opened, or was flipped by
    hand, stayed unprocessed for ever, since the query trusted `is_active`.
    """
    return sorted((p for p in periods if p.ends_at <= now and not p.is_processed), key=_by_start)


def next_period(settings: VotingSettings, periods: Iterable[Period], now: datetime) -> tuple[datetime, datetime] | None:
    """Start and end of the agent voting period to make now, in UTC; None when there is one ahead.

    Weekly and daily periods start on the hour of the settings, and one is always kept ahead, while
    another is open too. An immediate one starts within seconds when none is open or about to start.

    What is processed is over, even where it lies in the future: the old system took such a period for the
    upcoming one, and made no other until its time had come. Its time stays taken all the same, since no two
    agent voting periods may overlap, so the next one comes after it.

    Raises:
        ValueError: `now` has no time zone.
    """
    now = in_utc(now)
    voting = [p for p in periods if p.period_type == "agent_voting" and p.ends_at > now]
    length = timedelta(minutes=settings.voting_minutes)
    starts_at = _slot(settings, now + IMMEDIATE_DELAY if settings.cadence is Cadence.IMMEDIATE else now)
    taken = [p for p in voting if p.is_processed or _is_no_obstacle(p, settings.cadence, now)]
    for period in sorted(taken, key=_by_start):
        if _overlap(period, starts_at, starts_at + length):
            starts_at = _slot(settings, in_utc(period.ends_at))
    ahead = max(starts_at, now + ABOUT_TO_START) if settings.cadence is Cadence.IMMEDIATE else starts_at
    for period in voting:
        if period not in taken and (period.starts_at <= ahead or _overlap(period, starts_at, starts_at + length)):
            return None
    return starts_at, starts_at + length


def period_state(period: Period) -> str:
    """`scheduled`, `open` or `processed`, as the ledger has it: a period that is due but not opened is scheduled."""
    if period.is_processed:
        return "processed"
    return "open" if period.is_active else "scheduled"


def may_vote(period: Period, now: datetime) -> str | None:
    """Why no vote may be cast in the period at this moment; None when it may.

    The window is `starts_at` to `ends_at`, whatever the flags say: the old system never looked at it.
    """
    if period.is_processed:
        return "the voting period is closed and its outcome is recorded"
    if now < period.starts_at:
        return f"the voting period starts at {spelled(period.starts_at)}"
    if now >= period.ends_at:
        return f"the voting period ended at {spelled(period.ends_at)}"
    return None


def _standing_order(candidate: Candidate) -> tuple[int, int, datetime, str]:
    return (-candidate.score, -candidate.upvotes, candidate.submitted_at, str(candidate.script_id))


def _scope(candidate: Candidate, rules: VotingRules) -> str:
    return candidate.genre if rules.winner_scope is WinnerScope.GENRE else WinnerScope.PERIOD.value


def _reaches(candidate: Candidate, rules: VotingRules) -> bool:
    return candidate.votes >= rules.min_votes and candidate.score >= rules.min_score


def _why_nobody(counted: Tally, rules: VotingRules) -> str | None:
    if counted.winners:
        return None
    if not counted.ranking:
        return "no script stood in this period"
    if counted.returned:
        return f"nobody voted: all scripts ({len(counted.returned)}) wait for the next period"
    return (
        f"no script reached the thresholds: at least {rules.min_votes} votes cast on it "
        f"and a score of {rules.min_score} or more"
    )


def _by_start(period: Period) -> tuple[datetime, str]:
    return period.starts_at, str(period.id)


def _overlap(period: Period, starts_at: datetime, ends_at: datetime) -> bool:
    return period.starts_at < ends_at and starts_at < period.ends_at


def _is_no_obstacle(period: Period, cadence: Cadence, now: datetime) -> bool:
    """Whether a period is running and the next one is made all the same."""
    return cadence is not Cadence.IMMEDIATE and period.starts_at <= now


def _slot(settings: VotingSettings, earliest: datetime) -> datetime:
    """First moment from `earliest` on at which a period of this cadence may start."""
    if settings.cadence is Cadence.IMMEDIATE:
        return earliest
    slot = earliest.replace(hour=settings.start_hour_utc, minute=0, second=0, microsecond=0)
    step = timedelta(days=1)
    if settings.cadence is Cadence.WEEKLY:
        slot += timedelta(days=(settings.start_weekday - slot.weekday()) % 7)
        step = timedelta(days=7)
    return slot if slot >= earliest else slot + step
