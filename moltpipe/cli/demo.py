"""`moltpipe demo`: the whole story on this machine, through the real sensors and runs.

Here: what the agents of the demo do, watching, and the account at the end. Not here: any step of the work
itself: scripts go through the same door, votes through the same window, and the period ends by itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import typer
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from moltpipe import samples
from moltpipe.cli.report import Json, complain, out, print_json, print_table, progress
from moltpipe.cli.session import Session, session
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.periods import PeriodOverlaps, create_period, get_outcome, make_room, open_due_periods
from moltpipe.ledger.production import load_production
from moltpipe.ledger.scripts import file_script
from moltpipe.ledger.series import count_series, episodes_of, first_take_at, load_series
from moltpipe.ledger.votes import cast_vote
from moltpipe.runtime.stack import AlreadyUpError, stack
from moltpipe.studio.admission import judge
from moltpipe.studio.progress import progress_of
from moltpipe.studio.records import Period, Production
from moltpipe.studio.screenplay import PilotScript
from moltpipe.studio.voting import Outcome

VOTING_TIME = timedelta(seconds=15)
"""Long enough for webserver and daemon to start while the vote is on."""
VOTERS = ("orbit", "marrow", "tinsel")
CLOSING_PATIENCE_S = 180
QUIET_PATIENCE_S = 600
_POLL_S = 0.5


class DemoFailed(Exception):
    """The story did not come to its end."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="demo")(demo)


def demo(as_json: Json = False) -> None:
    """Submit, vote, let the period end, and watch a whole series being made. Run again for another one."""
    began = time.monotonic()
    try:
        with session() as opened:
            period = _campaign(opened.database)
            with _stage(opened):
                outcome = _await_closing(opened.database, period)
                series_ids = [winner.series_id for winner in outcome.winners]
                _await_series(opened.database, series_ids)
            document = _account(opened.database, period, series_ids, time.monotonic() - began)
            target = opened.settings.data_dir / "demo.json"
            target.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except (DemoFailed, PeriodOverlaps) as error:
        complain(str(error))
        sys.exit(1)
    if as_json:
        print_json(document)
    else:
        _tell(document)
        out.print(f"written to {target}; `moltpipe up` shows it all in the Dagster UI", markup=False)


def _campaign(database: Database) -> Period:
    """Agents submit, a period opens, agents vote: one script is liked, the others are not.

    Which one is liked changes from demo to demo, so that a second one makes another series.
    """
    now = datetime.now(UTC)
    # One transaction: a sensor that runs already must not open another period with these scripts in between.
    with database.begin() as db:
        scripts = [
            file_script(db, _judged(agent, document), document, agent_name=agent, studio_slug=None, now=now)
            for agent, document in samples.pilots()
        ]
        favourite = scripts[count_series(db) % len(scripts)]
        make_room(db, now, now + VOTING_TIME)
        period = create_period(db, "agent_voting", now, now + VOTING_TIME)
        open_due_periods(db, now)
    for (agent, _), script in zip(samples.pilots(), scripts, strict=True):
        progress.print(f"  {agent} submits “{script.title}”", highlight=False)
    with database.begin() as db:
        for script in scripts:
            liked = script is favourite
            for voter in VOTERS if liked else VOTERS[:1]:
                cast_vote(db, script.script_id, voter, 1 if liked else -1, datetime.now(UTC))
    progress.print(f"  {', '.join(VOTERS)} vote; the period ends at {period.ends_at:%H:%M:%S} UTC", highlight=False)
    return period


def _judged(agent: str, document: dict[str, Any]) -> PilotScript:
    admission = judge(document)
    if admission.script is None:
        raise DemoFailed(f"the sample script of {agent} was refused: {admission.refusals}")
    return admission.script


@contextmanager
def _stage(opened: Session) -> Iterator[None]:
    """Webserver and daemon for the time of the demo, or those of a `moltpipe up` that runs already."""
    try:
        with stack(opened.settings) as running:
            progress.print(f"  Dagster is up at {running.url}", highlight=False)
            yield
    except AlreadyUpError as up:
        progress.print(f"  using the moltpipe that is up at {up.url}", highlight=False)
        yield


def _await_closing(database: Database, period: Period) -> Outcome:
    """The outcome of the period, once a sensor's run has closed it."""
    deadline = time.monotonic() + CLOSING_PATIENCE_S
    with progress.status("  the vote is on"):
        while time.monotonic() < deadline:
            with database.begin() as db:
                outcome = get_outcome(db, period.id)
            if outcome is not None:
                for winner in outcome.winners:
                    progress.print(f"  “{winner.title}” wins and becomes a series", highlight=False)
                return outcome
            time.sleep(_POLL_S)
    raise DemoFailed(
        f"the period ended at {period.ends_at:%H:%M:%S} UTC and was not closed within {CLOSING_PATIENCE_S} s: "
        "the logs of the daemon and of its runs say why"
    )


def _await_series(database: Database, series_ids: list[UUID]) -> None:
    """Watch every episode until all wanted variants are published."""
    with database.begin() as db:
        episodes = [episode for series_id in series_ids for episode in episodes_of(db, series_id)]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[making]}"))
    with Bars(*columns, TimeElapsedColumn(), console=progress) as bars:
        tasks = {one.id: bars.add_task(f"  {one.title}", total=1, making="waits for its run") for one in episodes}
        known, heard = -1, time.monotonic()
        while True:
            with database.begin() as db:
                productions = [load_production(db, one.partition_key) for one in episodes]
            steps = [progress_of(one) for one in productions]
            for one, step in zip(episodes, steps, strict=True):
                if step is not None:
                    bars.update(tasks[one.id], completed=step.done, total=step.total, making=step.making)
            if all(step is not None and step.done == step.total for step in steps):
                return
            done = sum(step.done for step in steps if step is not None)
            if done != known:
                known, heard = done, time.monotonic()
            _give_up_when_hopeless(database, {one.partition_key for one in episodes}, time.monotonic() - heard)
            time.sleep(_POLL_S)


def _give_up_when_hopeless(database: Database, partition_keys: set[str], quiet_s: float) -> None:
    with database.begin() as db:
        jobs = [job for job in load_jobs(db) if job.partition_key in partition_keys]
    for job in jobs:
        if job.attempt_count >= job.max_attempts:
            raise DemoFailed(f"{job.partition_key} failed {job.attempt_count} times, the last with: {job.last_error}")
    if quiet_s > QUIET_PATIENCE_S:
        errors = "; ".join(f"{job.partition_key}: {job.last_error}" for job in jobs if job.last_error) or "no error"
        raise DemoFailed(f"nothing was finished for {QUIET_PATIENCE_S} s ({errors}): `moltpipe status` shows more")


def _account(database: Database, period: Period, series_ids: list[UUID], elapsed_s: float) -> dict[str, Any]:
    """What came out, read back from the ledger."""
    with database.begin() as db:
        all_series = [load_series(db, series_id) for series_id in series_ids]
        firsts = [first_take_at(db, series_id) for series_id in series_ids]
        productions = {
            series.id: [load_production(db, one.partition_key) for one in episodes_of(db, series.id)]
            for series in all_series
        }
    first = min((moment for moment in firsts if moment is not None), default=None)
    return {
        "period": {"id": str(period.id)},
        "series": [
            {
                "id": str(series.id),
                "title": series.title,
                "episodes": [_episode(production) for production in productions[series.id]],
            }
            for series in all_series
        ],
        "elapsed_seconds": round(elapsed_s, 1),
        "closed_to_first_take_seconds": round((first - period.ends_at).total_seconds(), 1) if first else None,
    }


def _episode(production: Production) -> dict[str, Any]:
    return {
        "id": str(production.episode.id),
        "episode_number": production.episode.number,
        "title": production.episode.title,
        "partition_key": production.episode.partition_key,
        "variants": [
            {
                "variant_number": variant.variant_number,
                "video_key": variant.video.key,
                "captions_key": variant.captions_key,
                "thumbnail_key": variant.thumbnail_key,
                "sha256": variant.video.sha256,
                "bytes": variant.video.bytes,
                "duration_seconds": variant.duration_seconds,
            }
            for _, variant in sorted(production.variants.items())
        ],
    }


def _tell(document: dict[str, Any]) -> None:
    for series in document["series"]:
        print_table(
            series["title"],
            ["episode", "title", "variant", "seconds", "MB", "video"],
            [
                [
                    episode["episode_number"],
                    episode["title"],
                    variant["variant_number"],
                    f"{variant['duration_seconds']:.1f}",
                    f"{variant['bytes'] / 1e6:.1f}",
                    variant["video_key"],
                ]
                for episode in series["episodes"]
                for variant in episode["variants"]
            ],
        )
    out.print(
        f"{document['elapsed_seconds']:.0f} s in all; first take "
        f"{document['closed_to_first_take_seconds']:.0f} s after the period ended",
        markup=False,
    )
