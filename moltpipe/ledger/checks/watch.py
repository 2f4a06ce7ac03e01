"""The watch itself: sensors and schedules that fell silent, and names under which Dagster would lose an episode.

Here: watchers against the clock, partition keys against their rule. Not here: ticking (`ledger.watching`), looking at
Dagster's own keys (`ledger.sweeps`).

The incident behind it: every cron job of the old system reported success, and a sensor that is off reports nothing.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Check, Conditions
from moltpipe.ledger.checks.sweeping import observed, see_that_it_goes_on
from moltpipe.ledger.schema import episodes, observations, watchers
from moltpipe.ledger.watching import ASLEEP, SILENCE

_CLOCK = sa.func.statement_timestamp()


def _silent(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    """Silent is who does not tick while others do.

    Where nobody ticks, no daemon runs, and this passes: that is how an operator leaves the studio, and
    `moltpipe check` must not fail on it. What a studio without a daemon forgets is found by the checks of what is due.
    """
    allowed = sa.values(sa.column("name", sa.Text), sa.column("silence", sa.Interval), name="allowed").data(
        list(SILENCE.items())
    )
    somebody_ticks = sa.exists().where(watchers.alias().c.ticked_at > _CLOCK - ASLEEP)
    return (
        sa.select(watchers.c.name, watchers.c.ticked_at, watchers.c.ticked_at.label("since"))
        .join(allowed, allowed.c.name == watchers.c.name)
        .where(watchers.c.ticked_at < _CLOCK - allowed.c.silence, somebody_ticks)
    )


SENSORS_AND_SCHEDULES_TICK = Check(
    "sensors_and_schedules_tick",
    "voting_periods",
    "While a daemon runs, every sensor and schedule of moltpipe ticks.",
    _silent,
    remedy="It was turned off, or its ticks fail or hang: the Automation page of the Dagster UI shows which, with the "
    "error. Turn it on there, or start `moltpipe up` again.",
)

# As on the table: the database keeps to it as long as the constraint is there.
RULE = "^[a-z0-9][a-z0-9_-]{0,62}$"


def _against_the_rule(db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    see_that_it_goes_on(db, "partition_keys")
    of_dagster = observed(
        "partition_keys_follow_the_rule",
        sa.func.coalesce(observations.c.detail["partition_key"].astext, observations.c.subject).label("partition_key"),
        observations.c.detail["definition"].astext.label("definition"),
        observations.c.detail["what"].astext.label("what"),
    )
    # To the letter as in `ix_episodes_against_the_rule`, so that the rule is tried when a key is written, not here.
    breaks_it = episodes.c.partition_key.op("!~")(sa.literal_column(f"'{RULE}'"))
    of_ledger = sa.select(
        episodes.c.partition_key,
        sa.literal("episodes"),
        sa.literal("the ledger has an episode under a key that breaks the rule"),
        sa.null(),
    ).where(breaks_it)
    return sa.union_all(of_dagster, of_ledger).subquery().select()


PARTITION_KEYS_FOLLOW_THE_RULE = Check(
    "partition_keys_follow_the_rule",
    "stitched_episode",
    f"Every partition key matches {RULE} and belongs to a period or an episode.",
    _against_the_rule,
    remedy="Dagster takes any key that somebody types. One that only Dagster has can be deleted there: nothing is "
    "made for it. An episode's key is set right in the ledger (`UPDATE episodes SET partition_key = …`) before "
    "its job is next run.",
)
