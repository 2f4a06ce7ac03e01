"""What orchestration costs per episode: fifty of them in one backfill, and some under Dagster's default executor.

Here: the same assets with the work taken out (`bench.workless`), on the same instance, in the same stack; processor
time of all its processes, of daemon, webserver, code server, run workers and Postgres, from the launch of a backfill to
the end of its last process. What the stack does anyway meanwhile is counted on both sides. The default side runs fewer
episodes, since it takes several times as long, and is reckoned per episode.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg

from moltpipe import samples
from moltpipe.defs.partitions import EPISODES_NAME
from moltpipe.ledger.database import Database
from moltpipe.ledger.scripts import file_script
from moltpipe.ledger.series import episodes_of, make_series
from moltpipe.runtime.stack import Stack
from moltpipe.studio.admission import judge
from moltpipe.studio.screenplay import EPISODES_PER_SERIES
from moltpipe_tests.bench import workless
from moltpipe_tests.bench.registry import Measurement, case, finding
from moltpipe_tests.bench.stacks import a_stack, backfill, ledger_of, processor_s

EPISODES, BY_DEFAULT, AT_ONCE = 50, 3, 6


@case(
    "backfill",
    f"{EPISODES} episodes without their work in a backfill, then {BY_DEFAULT} under Dagster's default executor",
    material=False,
)
def backfills(folder: Path) -> dict[str, float]:
    return look(folder, episodes=EPISODES, by_default=BY_DEFAULT)


def look(folder: Path, *, episodes: int, by_default: int) -> dict[str, float]:
    """Processor and wall seconds per episode, of ours and of the default."""
    at_once = {"MOLTPIPE_MAX_CONCURRENT_RUNS": str(AT_ONCE)}
    with a_stack(folder / "workless", at_once, module=workless.__name__) as running, ledger_of(running) as ledger:
        keys = _episodes(ledger, episodes + by_default)
        _add_partitions(running, keys)
        ours = _cost(running, workless.OURS, keys[:episodes])
        default = _cost(running, workless.DEFAULT, keys[episodes:])
    return {
        "episodes": episodes,
        "processor_s": ours[0],
        "wall_s": ours[1],
        "episodes_by_default": by_default,
        "processor_by_default_s": default[0],
        "wall_by_default_s": default[1],
    }


def _cost(running: Stack, job: str, keys: list[str]) -> tuple[float, float]:
    before, began = processor_s(running), time.perf_counter()
    backfill(running, job, keys)
    return (processor_s(running) - before) / len(keys), (time.perf_counter() - began) / len(keys)


def _episodes(ledger: Database, count: int) -> list[str]:
    """Partition keys of so many episodes that wait to be made."""
    keys: list[str] = []
    for number in range(-(-count // EPISODES_PER_SERIES)):
        document: dict[str, Any] = copy.deepcopy(samples.pilots()[0][1]) | {"title": f"Series {number}"}
        admission = judge(document)
        if admission.script is None:
            raise RuntimeError(f"the sample script was refused: {admission.refusals}")
        with ledger.begin() as db:
            script = file_script(
                db, admission.script, document, agent_name="bench", studio_slug=None, now=datetime.now(UTC)
            )
            keys += [one.partition_key for one in episodes_of(db, make_series(db, script.script_id))]
    return keys[:count]


def _add_partitions(running: Stack, keys: list[str]) -> None:
    """As the closing of a vote does, in this process: the daemon would add them one by one."""
    home = running.house.settings.data_dir / "dagster"
    with patch.dict(os.environ, running.house.variables), dg.DagsterInstance.from_config(str(home)) as instance:
        instance.add_dynamic_partitions(EPISODES_NAME, keys)


@finding(
    "orchestration",
    "processor time per episode in a backfill of fifty",
    against="the same graph under Dagster's default executor, three episodes, by so many times as much",
    needs=("backfill",),
    at_least=4,
)
def against_default(took: Mapping[str, Measurement]) -> float:
    details = took["backfill"].details
    return details["processor_by_default_s"] / details["processor_s"]


@finding("orchestration cost", "processor time per episode in that backfill", needs=("backfill",), unit="s")
def per_episode(took: Mapping[str, Measurement]) -> float:
    return took["backfill"].details["processor_s"]
