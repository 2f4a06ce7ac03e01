"""Dagster's catalog beside the ledger: partitions that are made, and of which Dagster does not know.

Here: finding them, and telling Dagster. Not here: what is made (`ledger.sweeps`), keys that must not be there
(`defs.integrity`).

A run writes to the ledger first and reports to Dagster afterwards, so one that dies in between leaves a published
episode whose partition looks as if its run had failed, for ever: nothing is left to do, so no other run comes. And a
catalog that was lost begins as an empty one, beside a studio that has everything.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from itertools import islice

import dagster as dg

from moltpipe.defs.partitions import EPISODES_NAME, PERIODS_NAME
from moltpipe.defs.voting import add_missing
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import clock_of
from moltpipe.ledger.sweeps import (
    CATALOG,
    begin_round,
    complete_round,
    keys_of_finished_episodes,
    keys_of_told_periods,
    load_sweep,
)

_DEFINITIONS: Mapping[str, str] = {
    "voting_outcome": PERIODS_NAME,
    "episode_script": EPISODES_NAME,
    "voiceover": EPISODES_NAME,
    "clips": EPISODES_NAME,
    "stitched_episode": EPISODES_NAME,
}
"""The partitioned assets, with whose partitions they have."""
ON_ITS_WAY = timedelta(minutes=1)
"""What became true a moment ago, its own run is about to report."""
REST = 60
"""The look comes again after so many times as it took: two seconds in a studio of 100,000 scripts."""
EVENTS_PER_TICK = 100


def complete_catalog(instance: dg.DagsterInstance, ledger: Database) -> int:
    """Report what is made and not materialized, so much at a time that the tick is not held up.

    Returns:
        How many partitions were reported. While there are more, the next call goes on.
    """
    with ledger.begin() as db:
        last = load_sweep(db, CATALOG)
        if last is not None and last.rests(clock_of(db), REST):
            return 0
        begin_round(db, CATALOG)
        made = {
            EPISODES_NAME: keys_of_finished_episodes(db, ON_ITS_WAY),
            PERIODS_NAME: keys_of_told_periods(db, ON_ITS_WAY),
        }
    missing = list(islice(_unknown(instance, made), EVENTS_PER_TICK + 1))
    now = missing[:EVENTS_PER_TICK]
    for definition in {_DEFINITIONS[asset] for asset, _ in now}:
        add_missing(instance, definition, [key for asset, key in now if _DEFINITIONS[asset] == definition])
    for asset, key in now:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                asset,
                partition=key,
                description="Made, says the ledger, and Dagster did not know of it: the run that made it ended before "
                "it could report. Materialize the partition to see its report; nothing is made again.",
            )
        )
    if len(missing) <= EVENTS_PER_TICK:
        with ledger.begin() as db:
            complete_round(db, CATALOG)
    return len(now)


def _unknown(instance: dg.DagsterInstance, made: Mapping[str, AbstractSet[str]]) -> Iterator[tuple[str, str]]:
    """Assets and partitions that are made and not materialized."""
    for asset, definition in _DEFINITIONS.items():
        known = instance.get_materialized_partitions(dg.AssetKey(asset)) if made[definition] else set()
        for key in sorted(made[definition] - known):
            yield asset, key
