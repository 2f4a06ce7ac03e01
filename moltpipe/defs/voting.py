"""Voting: the tables that agents fill, the outcome of a period, and when a period is opened, closed and made.

Here: external assets, `voting_outcome`, its sensor, the schedule that keeps one period ahead. Not here: who
wins (`studio.voting`, `studio.audience`), what closing writes (`ledger.periods`, `ledger.audience`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from moltpipe.defs.partitions import EPISODES_NAME, PERIODS, PERIODS_NAME
from moltpipe.defs.reports import Cell, Metadata, link, table
from moltpipe.defs.runs import PRIORITY_TAG, partitions_in_flight, past_runs, run_key
from moltpipe.defs.sizing import pod_of
from moltpipe.ledger.audience import CLIP_VOTING, close_clip_vote, served
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.periods import (
    AGENT_VOTING,
    close_agent_vote,
    ensure_upcoming,
    list_periods,
    open_due_periods,
    unprocessed_periods,
    voting_settings,
)
from moltpipe.ledger.production import load_episode
from moltpipe.ledger.watching import ticked
from moltpipe.ledger.windows import hold_period
from moltpipe.settings import load_settings
from moltpipe.studio.audience import ClipOutcome
from moltpipe.studio.dispatch import closings_to_request
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import Period
from moltpipe.studio.voting import Outcome, periods_to_close

CLOSING_PRIORITY = 1000
"""Before every production job: behind a queue of episodes, a period that is over stayed open for minutes."""
CLIP_CLOSINGS_PER_TICK = 20
"""Each takes some ten milliseconds, and what Dagster is told of it as much."""

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
    description="Close one period that is over.",
)


@dg.sensor(
    target=close_voting_period,
    minimum_interval_seconds=1,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Opens votes on scripts that are due, and closes the votes of both kinds whose time is over.",
)
def period_sensor(
    context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database]
) -> dg.SensorResult | dg.SkipReason:
    """Looks at the ledger alone: a lost cursor or a tick that runs twice changes nothing.

    Raises:
        ClipVotesNotClosed: some votes on variants could not be closed, and there is nothing else to begin. The others
            are closed, and runs for votes on scripts were asked for in an earlier tick: a failed one asks for none.
    """
    now = datetime.now(UTC)
    with ledger.begin() as db:
        open_due_periods(db, now)
        over = periods_to_close(unprocessed_periods(db), now)
        ticked(db, "period_sensor")
    closing = _close_clip_votes(context.instance, ledger, [one for one in over if one.period_type == CLIP_VOTING], now)
    due = [period_key(period) for period in over if period.period_type == AGENT_VOTING]
    to_request = closings_to_request(
        due, partitions_in_flight(context.instance, due), past_runs(context.instance, due), now
    )
    if closing.failures:
        failed = ClipVotesNotClosed(closing.failures)
        if not to_request:
            raise failed from closing.failures[0][1]
        context.log.error(str(failed))
    if not to_request:
        return dg.SkipReason(_what_was_done(due, closing.outcomes))
    return dg.SensorResult(
        dynamic_partitions_requests=[PERIODS.build_add_request(to_request)],
        run_requests=[
            dg.RunRequest(
                partition_key=key,
                run_key=run_key(context.instance, key),
                tags={PRIORITY_TAG: str(CLOSING_PRIORITY)},
            )
            for key in to_request
        ],
    )


class ClipVotesNotClosed(Exception):
    """Votes on variants are over, and each of these could not be closed, or not be told of, for a reason of its own."""

    def __init__(self, failures: Sequence[tuple[Period, Exception]]) -> None:
        told = "; ".join(f"period {period.id}: {type(error).__name__}: {error}" for period, error in failures)
        super().__init__(
            f"{len(failures)} votes on variants are over and could not be closed, or not be told of: {told}"
        )
        self.failures = failures


@dataclass(frozen=True)
class _Closing:
    """What became of the votes on variants that were over."""

    outcomes: list[ClipOutcome]
    failures: list[tuple[Period, Exception]]


def _close_clip_votes(
    instance: dg.DagsterInstance, ledger: Database, over: Sequence[Period], now: datetime
) -> _Closing:
    """Close votes on variants in the tick itself: a run would take seconds of CPU for one row.

    Each in a transaction of its own, so that one that fails leaves the others alone.
    """
    done = _Closing([], [])
    for period in over:
        if len(done.outcomes) == CLIP_CLOSINGS_PER_TICK:
            break
        try:
            with ledger.begin() as db:
                # Somebody may have closed it since, and told of it.
                if hold_period(db, period.id).is_processed:
                    continue
                outcome = close_clip_vote(db, period.id, now)
            _tell(instance, ledger, outcome)
        except DatabaseUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the others are closed, and the tick fails with it)
            done.failures.append((period, error))
        else:
            done.outcomes.append(outcome)
    return done


def _tell(instance: dg.DagsterInstance, ledger: Database, outcome: ClipOutcome) -> None:
    """Put the result where an operator looks: on the pilot's partition, and on the series that serves it."""
    with ledger.begin() as db:
        shown = served(db, load_episode(db, outcome.partition_key).series_id)
    media_url = load_settings().media_url
    selected = next(one for one in shown if one.episode_id == outcome.episode_id)
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
                "selected": link(media_url, selected.video_key),
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


def _what_was_done(due: Sequence[str], outcomes: Sequence[ClipOutcome]) -> str:
    """What a tick that starts no run has to say."""
    told = [f"closing: {', '.join(due)}"] if due else []
    told += [outcome.summary for outcome in outcomes]
    return "; ".join(told) or "no voting period is over"


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
