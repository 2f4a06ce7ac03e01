"""`moltpipe demo`: the whole story on this machine, through the real sensors and runs.

Here: what the agents of the demo do, and waiting for what comes of it. Not here: any step of the work itself
(scripts go through the same door, votes through the same windows, and the period ends by itself; only the vote on the
pilot's variants, which lasts for two days, is closed early), how progress looks (`cli.watching`), the account at the
end (`cli.account`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from moltpipe import samples
from moltpipe.cli.account import account, tell_account
from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, print_json, progress, report, say
from moltpipe.cli.session import Session, session
from moltpipe.cli.watching import watching
from moltpipe.ledger.audience import cast_clip_vote, clip_vote_of, find_variant
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import load_jobs
from moltpipe.ledger.periods import (
    PeriodOverlaps,
    close_early,
    create_period,
    get_outcome,
    make_room,
    open_due_periods,
    voting_settings,
)
from moltpipe.ledger.production import load_production
from moltpipe.ledger.scripts import file_script
from moltpipe.ledger.series import count_series, episodes_of
from moltpipe.ledger.votes import OutsideWindow, cast_vote
from moltpipe.runtime.fakes import CAST, NoFakes, fake_providers
from moltpipe.runtime.stack import AlreadyUpError, Stack, stack
from moltpipe.settings import PREFIX
from moltpipe.studio.admission import judge
from moltpipe.studio.audience import agent_voter
from moltpipe.studio.progress import progress_of
from moltpipe.studio.records import Episode, Job, Period
from moltpipe.studio.screenplay import PilotScript
from moltpipe.studio.voting import Outcome

VOTING_TIME = timedelta(seconds=15)
"""Long enough for webserver and daemon to start while the vote is on."""
VOTERS = ("orbit", "marrow", "tinsel")
LIKED_VARIANTS = {"orbit": 3, "marrow": 2, "tinsel": 2}
"""Which variant of the pilot each of them votes for."""
CLOSING_PATIENCE_S = 180
QUIET_PATIENCE_S = 600
LAST_RUNS_PATIENCE_S = 60
_POLL_S = 0.5


class DemoFailed(Exception):
    """The story did not come to its end."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="demo")(demo)


class Engines(StrEnum):
    """Whose engines the demo uses."""

    SETTINGS = "settings"
    FAKE = "fake"


def demo(
    as_json: Json = False,
    engines: Annotated[
        Engines,
        typer.Option(
            help="`settings`: those that the environment names, by default local ones. `fake`: hosted ones of every "
            "kind, against fake providers on this machine."
        ),
    ] = Engines.SETTINGS,
) -> None:
    """Submit, vote, let the period end, and watch a whole series being made. Run again for another one."""
    began = time.monotonic()
    try:
        with _engines(engines), session() as opened:
            period = _campaign(opened.database)
            with _stage(opened, alone=engines is Engines.FAKE):
                outcome = _await_closing(opened.database, period)
                series_ids = [winner.series_id for winner in outcome.winners]
                _await_series(opened.database, series_ids)
                _second_vote(opened.database, series_ids)
            document = account(opened.database, period, series_ids, time.monotonic() - began)
            target = opened.settings.data_dir / "demo.json"
            target.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except (DemoFailed, PeriodOverlaps, NoFakes) as error:
        complain(str(error))
        sys.exit(1)
    if as_json:
        print_json(document)
    else:
        _tell(document, target)


@contextmanager
def _engines(engines: Engines) -> Iterator[None]:
    """Fake providers and the settings that lead to them, where they were asked for."""
    if engines is Engines.SETTINGS:
        yield
        return
    with fake_providers() as variables:
        os.environ.update(variables)
        report(f"  fake providers: {', '.join(f'{role.lower()} {name}' for role, name in _cast(variables))}")
        yield


def _cast(variables: dict[str, str]) -> list[tuple[str, str]]:
    return [(variable.removeprefix(PREFIX), variables[variable]) for variable in CAST]


def _tell(document: dict[str, Any], target: Path) -> None:
    tell_account(document)
    say()
    say(f"all keys and hashes: {target}")
    say("next: `moltpipe up` shows it in the Dagster UI, `moltpipe status` where each thing is")


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
        report(f"  {agent} submits “{script.title}”")
    with database.begin() as db:
        for script in scripts:
            liked = script is favourite
            for voter in VOTERS if liked else VOTERS[:1]:
                cast_vote(db, script.script_id, voter, 1 if liked else -1, datetime.now(UTC))
    report(f"  {', '.join(VOTERS)} vote; the period ends at {period.ends_at:%H:%M:%S} UTC")
    return period


def _judged(agent: str, document: dict[str, Any]) -> PilotScript:
    admission = judge(document)
    if not isinstance(admission.script, PilotScript):
        raise DemoFailed(f"the sample script of {agent} was refused: {admission.refusals}")
    return admission.script


@contextmanager
def _stage(opened: Session, *, alone: bool) -> Iterator[None]:
    """Webserver and daemon for the time of the demo, or those of a `moltpipe up` that runs already.

    `alone` refuses the latter: it was started with other engines.
    """
    try:
        with stack(opened.settings, say=report) as running:
            report(f"  Dagster is up at {running.url}")
            try:
                yield
                _let_runs_end(running)
            except KeyboardInterrupt:
                report("  stopping; `moltpipe up` goes on from here")
                raise
    except AlreadyUpError as up:
        if alone:
            raise DemoFailed(f"a moltpipe is up at {up.url} with its own engines: stop it first") from up
        report(f"  using the moltpipe that is up at {up.url}")
        yield


def _let_runs_end(running: Stack) -> None:
    """The last rows are written before their runs have reported them: without this the partition would not be green."""
    deadline = time.monotonic() + LAST_RUNS_PATIENCE_S
    while running.runs_in_flight() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _await_closing(database: Database, period: Period) -> Outcome:
    """The outcome of the period, once a sensor's run has closed it."""
    deadline = time.monotonic() + CLOSING_PATIENCE_S
    with progress.status("  the vote is on"):
        while time.monotonic() < deadline:
            with database.begin() as db:
                outcome = get_outcome(db, period.id)
            if isinstance(outcome, Outcome):
                break
            time.sleep(_POLL_S)
        else:
            raise DemoFailed(
                f"the period ended at {period.ends_at:%H:%M:%S} UTC and was not closed within {CLOSING_PATIENCE_S} s: "
                "the logs of the daemon and of its runs say why"
            )
    if not outcome.winners:
        raise DemoFailed(f"the period closed without a winner: {outcome.summary}")
    for winner in outcome.winners:
        report(f"  “{winner.title}” wins and becomes a series")
    return outcome


def _await_series(database: Database, series_ids: list[UUID]) -> None:
    """Watch every episode until all wanted variants are published."""
    with database.begin() as db:
        episodes = [episode for series_id in series_ids for episode in episodes_of(db, series_id)]
    hope = _Hope(episodes)
    with watching(progress, episodes) as watch:
        while True:
            with database.begin() as db:
                productions = [load_production(db, one.partition_key) for one in episodes]
                jobs = load_jobs(db)
            steps = [progress_of(production) for production in productions]
            for production, step in zip(productions, steps, strict=True):
                watch.show(production.episode, step)
            if all(step is not None and step.done == step.total for step in steps):
                return
            hope.look(sum(step.done for step in steps if step is not None), jobs)
            time.sleep(_POLL_S)


def _second_vote(database: Database, series_ids: list[UUID]) -> None:
    """The agents vote on the variants of each pilot, and the vote is closed before its time."""
    with database.begin() as db:
        pilots = [episodes_of(db, series_id)[0] for series_id in series_ids]
    for pilot in pilots:
        with database.begin() as db:
            period = clip_vote_of(db, pilot.id)
        if period is None:
            continue
        now = datetime.now(UTC)
        # Where the settings let it last for a minute, it is over by now.
        with suppress(OutsideWindow), database.begin() as db:
            for voter, number in LIKED_VARIANTS.items():
                cast_clip_vote(db, find_variant(db, pilot, number), agent_voter(voter), now)
        with database.begin() as db:
            outcome = close_early(db, period.id, voting_settings(db).rules, now, "the demo does not wait for its end")
        report(f"  {', '.join(LIKED_VARIANTS)} vote again: {outcome.summary}")


class _Hope:
    """Whether it is any use to wait on. Tells of every attempt that failed, once."""

    def __init__(self, episodes: list[Episode]) -> None:
        self._names = {one.partition_key: f"e{one.number:02d}" for one in episodes}
        self._attempts: dict[str, int] = {}
        self._errors: dict[str, str | None] = {}
        self._done = -1
        self._news_at = time.monotonic()

    def look(self, done: int, jobs: list[Job]) -> None:
        """Take in how many steps are done and how the unfinished jobs stand.

        Raises:
            DemoFailed: a job has used up its attempts, or nothing happened for ten minutes.
        """
        if done != self._done:
            self._done, self._news_at = done, time.monotonic()
        ours = [job for job in jobs if job.partition_key in self._names]
        for job in ours:
            self._tell_failure(job)
            if job.attempt_count >= job.max_attempts and job.process_uuid is None:
                raise DemoFailed(
                    f"{job.partition_key} failed {job.attempt_count} times, the last with: {job.last_error}"
                )
        if time.monotonic() - self._news_at > QUIET_PATIENCE_S:
            errors = "; ".join(f"{job.partition_key}: {job.last_error}" for job in ours if job.last_error) or "no error"
            raise DemoFailed(f"nothing was finished for {QUIET_PATIENCE_S} s ({errors}): `moltpipe status` shows more")

    def _tell_failure(self, job: Job) -> None:
        name = self._names[job.partition_key]
        if job.attempt_count > self._attempts.get(job.partition_key, 0):
            self._attempts[job.partition_key] = job.attempt_count
            complain(f"  {name}: attempt {job.attempt_count} of {job.max_attempts} failed: {job.last_error}")
        elif job.last_error and job.last_error != self._errors.get(job.partition_key):
            complain(f"  {name}: put off: {job.last_error}")
        self._errors[job.partition_key] = job.last_error
