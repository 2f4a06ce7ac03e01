"""Voting: the tables that agents fill, the outcome of a period, and when a period is opened, closed and made.

Here: external assets, `voting_outcome`, its sensor, the schedule that keeps one period ahead. Not here: who
wins (`studio.voting`), what closing writes (`ledger.periods`).
"""

from datetime import UTC, datetime

import dagster as dg

from moltpipe.defs.partitions import EPISODES_NAME, PERIODS, PERIODS_NAME
from moltpipe.defs.reports import Metadata, table
from moltpipe.defs.runs import end_dead_run, past_runs, run_key, runs_in_flight
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.periods import (
    close_period,
    ensure_upcoming,
    list_periods,
    open_due_periods,
    voting_settings,
)
from moltpipe.studio.dispatch import closings_to_request
from moltpipe.studio.keys import period_key
from moltpipe.studio.records import Period
from moltpipe.studio.voting import Outcome, periods_to_close

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
    description="The windows in which agents vote.",
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
)
def voting_outcome(context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Database]) -> dg.MaterializeResult[None]:
    """Winners, losers, series, episodes and production jobs of one period, written in one transaction.

    A period that is not over is refused. One that is closed already gives its recorded outcome.
    """
    with ledger.begin() as db:
        period = period_of(context.partition_key, list_periods(db))
        outcome = close_period(db, period.id, voting_settings(db).rules, datetime.now(UTC))
        keys = [job.partition_key for job in load_jobs(db)]
    add_missing(context.instance, EPISODES_NAME, keys)
    return dg.MaterializeResult(metadata=_report(period, outcome))


class UnknownPeriod(Exception):
    """No period has this partition key."""

    def __init__(self, partition_key: str) -> None:
        super().__init__(f"no voting period has the partition key {partition_key!r}: `moltpipe period list` shows them")
        self.partition_key = partition_key


def period_of(partition_key: str, periods: list[Period]) -> Period:
    """The period with this partition key.

    Raises:
        UnknownPeriod: there is none.
    """
    for period in periods:
        if period_key(period) == partition_key:
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
    description="Opens periods that are due and closes those whose time is over.",
)
def period_sensor(
    context: dg.SensorEvaluationContext, ledger: dg.ResourceParam[Database]
) -> dg.SensorResult | dg.SkipReason:
    """Looks at the ledger alone: a lost cursor or a tick that runs twice changes nothing."""
    now = datetime.now(UTC)
    with ledger.begin() as db:
        open_due_periods(db, now)
        over = periods_to_close(list_periods(db), now)
    due = [period_key(period) for period in over if period.period_type == "agent_voting"]
    if not due:
        return dg.SkipReason("no voting period is over")
    closings = closings_to_request(due, runs_in_flight(context.instance, due), past_runs(context.instance, due), now)
    for run_id in closings.dead_runs:
        end_dead_run(context.instance, run_id)
    if not closings.to_request:
        return dg.SkipReason(f"closing: {', '.join(due)}")
    return dg.SensorResult(
        dynamic_partitions_requests=[PERIODS.build_add_request(closings.to_request)],
        run_requests=[
            dg.RunRequest(partition_key=key, run_key=run_key(context.instance, key)) for key in closings.to_request
        ],
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
    if made is None:
        return dg.SkipReason("the next voting period is ready")
    add_missing(context.instance, PERIODS_NAME, [period_key(made)])
    return dg.SkipReason(f"made the voting period from {made.starts_at:%Y-%m-%d %H:%M} to {made.ends_at:%H:%M} UTC")
