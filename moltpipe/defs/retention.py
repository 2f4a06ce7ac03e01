"""Retention: the job that prunes, and the schedule that calls it once a day.

Here: only that. Not here: what may go (`studio.retention`), pruning (`runtime.pruning`). Where a CronJob calls
`moltpipe prune` instead, `RETENTION=off` lets the schedule rest.
"""

import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from moltpipe.defs.reports import table
from moltpipe.defs.runs import PRIORITY_TAG
from moltpipe.defs.sizing import pod_of
from moltpipe.ledger.database import Database
from moltpipe.ledger.watching import ticked
from moltpipe.runtime.pruning import AnotherPrune, keeping_of, prune
from moltpipe.settings import load_settings
from moltpipe.store import IN_A_TRANSACTION, connect

_NAME = "retention_schedule"
_TOO_LATE = timedelta(hours=23)
"""A daemon that was off catches up with the days that it missed: one prune does for all of them."""
_WORD_EVERY_S = 10.0
"""The reaper takes a run for dead that is silent for a minute. A batch takes seconds."""


@dg.op(description="Removes what nobody needs any more, batch by batch.", tags=pod_of("retention"))
def remove_what_nobody_needs(context: dg.OpExecutionContext, ledger: dg.ResourceParam[Database]) -> None:
    """One prune, with what was removed as metadata of the step. One that meets another one leaves it to that."""
    settings = load_settings(with_keys=False)
    store = connect(settings.s3_bucket, settings.s3_endpoint_url, patience=IN_A_TRANSACTION)
    said_at = time.monotonic()

    def tell(line: str) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _WORD_EVERY_S:
            said_at = time.monotonic()
            context.log.info("so far: %s", line)

    try:
        pruned = prune(ledger, store, context.instance, keeping_of(settings), by=_NAME, told=tell)
    except AnotherPrune as error:
        context.log.info(str(error))
        return
    gone = [one for one in pruned if one.count]
    context.log.info("removed: %s", ", ".join(f"{one.count} {one.what}" for one in gone) or "nothing")
    context.add_output_metadata(
        {
            "removed": table(
                [
                    {
                        "what": one.what,
                        "count": one.count,
                        "bytes": one.bytes,
                        "oldest": one.oldest.isoformat() if one.oldest else None,
                    }
                    for one in gone
                ]
            )
        }
    )


@dg.job(
    name="prune",
    description="Remove what has been superfluous for longer than the settings KEEP_…_DAYS say.",
    # Behind everything that somebody waits for.
    tags={PRIORITY_TAG: "-1000"},
)
def prune_job() -> None:
    """One step."""
    remove_what_nobody_needs()


@dg.schedule(
    name=_NAME,
    cron_schedule="23 4 * * *",
    target=prune_job,
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Prunes once a day, unless RETENTION is off.",
)
def retention_schedule(
    context: dg.ScheduleEvaluationContext, ledger: dg.ResourceParam[Database]
) -> dg.RunRequest | dg.SkipReason:
    """A run, because a prune may take longer than the minute that a tick has."""
    with ledger.begin() as db:
        ticked(db, _NAME)
    if load_settings(with_keys=False).retention == "off":
        return dg.SkipReason("RETENTION is off: `moltpipe prune` is called by somebody else, or never")
    if datetime.now(UTC) - context.scheduled_execution_time > _TOO_LATE:
        return dg.SkipReason("a later day's prune does for this one as well")
    return dg.RunRequest(run_key=f"prune:{context.scheduled_execution_time:%Y-%m-%d}")
