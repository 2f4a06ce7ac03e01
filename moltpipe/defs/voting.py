"""Voting: the tables that agents fill, the outcome of a period, and when a period is opened, closed and made.

Here: external assets, `voting_outcome`, its sensor, the schedule that keeps one period ahead. Not here: who
wins (`studio.voting`, `studio.audience`), what closing writes (`ledger.periods`, `ledger.audience`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import dagster as dg

from moltpipe.defs.partitions import EPISODES_NAME, PERIODS, PERIODS_NAME
from moltpipe.defs.reports import Cell, Metadata, link, table
from moltpipe.defs.sizing import pod_of
from moltpipe.ledger.audience import Served, served
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.periods import (
    AGENT_VOTING,
    OutcomeUnreadable,
    close_agent_vote,
    close_period,
    ensure_upcoming,
    get_outcome,
    list_periods,
    open_due_periods,
    unprocessed_periods,
    voting_settings,
)
from moltpipe.ledger.production import load_episode
from moltpipe.ledger.telling import hold_untold, note_told, untold_periods
from moltpipe.ledger.watching import ticked
from moltpipe.ledger.windows import hold_period
from moltpipe.settings import load_settings
from moltpipe.studio.audience import ClipOutcome
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import Period
from moltpipe.studio.voting import Outcome, periods_to_close

VOTES_PER_TICK = 20
"""Closing one takes some ten milliseconds, and what Dagster is told of it as much."""

SCRIPTS = dg.AssetSpec(
    "scripts",
    group_name="voting",
    kinds={"postgres"},
    owners=["team:studio"],
    description="Pilot scripts that agents submitted, with where each stands in the vote.",
)
VOTES = dg.AssetSpec(
    "votes",
    group_name="voting",
    kinds={"postgres"},
    owners=["team:studio"],
    deps=[SCRIPTS],
    description="One row per agent and script: up or down.",
)
VOTING_PERIODS = dg.AssetSpec(
    "voting_periods",
    group_name="voting",
    kinds={"postgres"},
    owners=["team:studio"],
    description="The windows in which agents vote on scripts, and the audience on the variants of a pilot.",
)
LIMITED_SERIES = dg.AssetSpec(
    "limited_series",
    group_name="voting",
    kinds={"postgres"},
    owners=["team:studio"],
    deps=["voting_outcome"],
    description="What winning scripts become: a pilot and four more episodes each.",
)


@dg.asset(
    partitions_def=PERIODS,
    deps=[SCRIPTS, VOTES, VOTING_PERIODS],
    group_name="voting",
    kinds={"postgres"},
    owners=["team:studio"],
    op_tags=pod_of("voting_outcome"),
)
def voting_outcome(context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Database]) -> dg.MaterializeResult[None]:
    """Winners, losers, series, episodes and production jobs of one period, written in one transaction.

    A period that is not over is refused. One that is closed already gives its recorded outcome.
    """
    with ledger.begin() as db:
        period = period_of(context.partition_key, list_periods(db))
        outcome = close_agent_vote(db, period.id, voting_settings(db).rules, datetime.now(UTC))
        keys = [job.partition_key for job in load_jobs(db)]
        # By the event that Dagster writes when this body is through.
        note_told(db, period.id)
    add_missing(context.instance, EPISODES_NAME, keys)
    return dg.MaterializeResult(metadata=_report(period, outcome))


class UnknownPeriod(Exception):
    """No vote on scripts has this partition key."""

    def __init__(self, partition_key: str) -> None:
        super().__init__(
            f"no vote on scripts has the partition key {partition_key!r}: `moltpipe period list` shows them"
        )
        self.partition_key = partition_key


def period_of(partition_key: str, periods: list[Period]) -> Period:
    """The vote on scripts with this partition key. Those on variants are no partitions: they need no run.

    Raises:
        UnknownPeriod: there is none.
    """
    for period in periods:
        if period.period_type == AGENT_VOTING and period_key(period) == partition_key:
            return period
    raise UnknownPeriod(partition_key)


def add_missing(instance: dg.DagsterInstance, definition: str, keys: list[str]) -> list[str]:
    """Add the keys that Dagster does not know yet, in one statement: its daemon adds them one by one."""
    missing = sorted(set(keys) - set(instance.get_dynamic_partitions(definition)))
    if missing:
        instance.add_dynamic_partitions(definition, missing)
    return missing


def _report(period: Period, outcome: Outcome) -> Metadata:
    return {
        "tally": table(
            [
                {
                    "genre": row.genre,
                    "rank": row.rank,
                    "title": row.title,
                    "agent": row.agent_name,
                    "score": row.score,
                    "up": row.upvotes,
                    "down": row.downvotes,
                    "became": row.fate.value,
                }
                for row in outcome.ranking
            ]
        ),
        "outcome": dg.MetadataValue.text(outcome.summary),
        "winners": dg.MetadataValue.int(len(outcome.winners)),
        "votes": dg.MetadataValue.int(outcome.votes),
        "ended": dg.MetadataValue.timestamp(period.ends_at),
    }


close_voting_period = dg.define_asset_job(
    "close_voting_period",
    selection=[voting_outcome],
    description="Close one period that is over, as the sensor does by itself.",
)


@dg.sensor(
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Opens votes on scripts that are due, and closes the votes of both kinds whose time is over. "
    "Starts no run.",
)
def period_sensor(context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database]) -> dg.SkipReason:
    """Looks at the ledger alone: a lost cursor or a tick that runs twice changes nothing.

    Raises:
        VotesNotClosed: some votes could not be closed. The others are.
    """
    now = datetime.now(UTC)
    with ledger.begin() as db:
        open_due_periods(db, now)
        ticked(db, "period_sensor")
    closing = close_votes(context.instance, ledger, now)
    if closing.failures:
        raise VotesNotClosed(closing.failures) from closing.failures[0][1]
    return dg.SkipReason("; ".join(one.summary for one in closing.outcomes) or "no voting period is over")


class VotesNotClosed(Exception):
    """Votes are over, and each of these could not be closed, or not be told of, for a reason of its own."""

    def __init__(self, failures: Sequence[tuple[Period, Exception]]) -> None:
        told = "; ".join(f"period {period.id}: {type(error).__name__}: {error}" for period, error in failures)
        super().__init__(f"{len(failures)} votes are over and could not be closed, or not be told of: {told}")
        self.failures = failures


@dataclass(frozen=True)
class Closing:
    """What became of the votes that were over."""

    outcomes: list[Outcome | ClipOutcome]
    """Those that Dagster was told of now."""
    failures: list[tuple[Period, Exception]]

    @contextmanager
    def apart(self, period: Period) -> Iterator[None]:
        """Keep what goes wrong with one vote from the others: the tick fails with it at its end.

        Raises:
            DatabaseUnavailable: that concerns them all.
        """
        try:
            yield
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the others are closed and told of)
            self.failures.append((period, error))


def close_votes(instance: dg.DagsterInstance, ledger: Database, now: datetime) -> Closing:
    """Close the votes that are over, in the tick itself, and put each result where an operator looks.

    A run for a vote took as long to start as everything between the vote's end and the first call to an engine is meant
    to take. Whoever comes second to a period waits for the first, and leaves it alone. Each has a transaction of its
    own, so that one that fails leaves the others as they are; it is tried again in every tick.

    Told of is whatever is closed, whoever closed it: an operator's command knows no Dagster, and a process may die
    between the two.
    """
    done = Closing([], [])
    with ledger.begin() as db:
        over = periods_to_close(unprocessed_periods(db), now)
    closed = 0
    for period in over:
        if closed == VOTES_PER_TICK:
            break
        with done.apart(period):
            closed += _close(ledger, period.id, now)
    with ledger.begin() as db:
        untold = untold_periods(db)
    for period in untold:
        if len(done.outcomes) == VOTES_PER_TICK:
            break
        with done.apart(period), suppress(OutcomeUnreadable):
            outcome = _tell(instance, ledger, period)
            if outcome is not None:
                done.outcomes.append(outcome)
    return done


def _close(ledger: Database, period_id: UUID, now: datetime) -> bool:
    """Close one vote; False when somebody has closed it since."""
    with ledger.begin() as db:
        if hold_period(db, period_id).is_processed:
            return False
        close_period(db, period_id, voting_settings(db).rules, now)
    return True


def _tell(instance: dg.DagsterInstance, ledger: Database, period: Period) -> Outcome | ClipOutcome | None:
    """Tell of one outcome; None when somebody else is at it, or was.

    It is noted afterwards: whoever dies in between has it told twice, and never not at all.

    Raises:
        OutcomeUnreadable: somebody wrote it by hand; a check of its own says so.
    """
    with ledger.begin() as db:
        if not hold_untold(db, period.id):
            return None
        outcome = get_outcome(db, period.id)
        if isinstance(outcome, ClipOutcome):
            _tell_of_variants(instance, outcome, served(db, load_episode(db, outcome.partition_key).series_id))
        elif outcome is not None:
            key = period_key(period)
            add_missing(instance, PERIODS_NAME, [key])
            instance.report_runless_asset_event(
                dg.AssetMaterialization("voting_outcome", partition=key, metadata=_report(period, outcome))
            )
        note_told(db, period.id)
    return outcome


def _tell_of_variants(instance: dg.DagsterInstance, outcome: ClipOutcome, shown: Sequence[Served]) -> None:
    """Put the result where an operator looks: on the pilot's partition, and on the series that serves it."""
    media_url = load_settings().media_url
    selected = next(
        (link(media_url, one.video_key) for one in shown if one.episode_id == outcome.episode_id),
        dg.MetadataValue.text("gone since the vote was closed"),
    )
    standing = table(
        [
            {
                "rank": rank,
                "variant": one.variant_number,
                "votes": one.votes,
                "selected": one == outcome.selected,
            }
            for rank, one in enumerate(outcome.ranking, start=1)
        ]
    )
    instance.report_runless_asset_event(
        dg.AssetObservation(
            "stitched_episode",
            partition=outcome.partition_key,
            description=outcome.summary,
            metadata={
                "audience_vote": standing,
                "selected": selected,
                "votes": dg.MetadataValue.int(outcome.votes),
            },
        )
    )
    serves: list[dict[str, Cell]] = [
        {
            "episode": one.episode_number,
            "partition": one.partition_key,
            "variant": one.variant_number,
            "seconds": one.duration_seconds,
            "video": one.video_key,
        }
        for one in shown
    ]
    instance.report_runless_asset_event(
        dg.AssetObservation("limited_series", description=outcome.summary, metadata={"serves": table(serves)})
    )


@dg.schedule(
    cron_schedule="* * * * *",
    target=close_voting_period,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Keeps the next voting period ready, by the cadence in the ledger. Starts no run.",
)
def next_period_schedule(context: dg.ScheduleEvaluationContext, ledger: dg.ResourceParam[Database]) -> dg.SkipReason:
    """One transaction in the tick itself: a run every minute would cost more than everything it does."""
    with ledger.begin() as db:
        made = ensure_upcoming(db, datetime.now(UTC))
        ticked(db, "next_period_schedule")
    if made is None:
        return dg.SkipReason("the next voting period is ready")
    add_missing(context.instance, PERIODS_NAME, [period_key(made)])
    return dg.SkipReason(f"made the voting period from {made.starts_at:%Y-%m-%d %H:%M} to {made.ends_at:%H:%M} UTC")
