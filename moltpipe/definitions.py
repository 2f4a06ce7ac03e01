"""The front door: all that Dagster sees, built in one function.

`build_definitions(overrides)` is the seam for tests and special deployments: any resource can be replaced.
"""

# ruff: noqa: E402 - the collector rests before anything else is imported

import gc

# What is imported here stays, and a collector that looks for garbage in it takes a third of the time: 3.6 processor
# seconds with it, 2.2 without. Frozen afterwards, it is not looked at again in this process.
gc.disable()

import dagster as dg

from moltpipe.defs.alerts import alert_sensor
from moltpipe.defs.clips import clips
from moltpipe.defs.dispatch import production_sensor
from moltpipe.defs.episodes import produce_episode, stitched_episode
from moltpipe.defs.integrity import INTEGRITY_CHECKS, check_integrity, integrity_sensor
from moltpipe.defs.reaper import reaper_sensor
from moltpipe.defs.resources import resources
from moltpipe.defs.retention import prune_job, retention_schedule
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.voiceovers import voiceover
from moltpipe.defs.voting import (
    LIMITED_SERIES,
    SCRIPTS,
    VOTES,
    VOTING_PERIODS,
    close_voting_period,
    next_period_schedule,
    period_sensor,
    voting_outcome,
)


def build_definitions(overrides: dict[str, object] | None = None) -> dg.Definitions:
    """Everything of moltpipe, with `overrides` in place of resources of the same name."""
    return dg.Definitions(
        assets=[
            SCRIPTS,
            VOTES,
            VOTING_PERIODS,
            LIMITED_SERIES,
            voting_outcome,
            episode_script,
            voiceover,
            clips,
            stitched_episode,
        ],
        asset_checks=INTEGRITY_CHECKS,
        jobs=[close_voting_period, produce_episode, check_integrity, prune_job],
        sensors=[period_sensor, production_sensor, integrity_sensor, reaper_sensor, alert_sensor],
        schedules=[next_period_schedule, retention_schedule],
        resources=resources() | (overrides or {}),
        # One process per run: every further process costs seconds of CPU, and the work inside is asyncio and FFmpeg.
        executor=dg.in_process_executor,
    )


defs = build_definitions()

gc.freeze()
gc.enable()
