"""`moltpipe period`: list, create, close, and the settings by which periods are made and won.

Here: both votes, on scripts and on the variants of a pilot. Not here: making the latter, which open by themselves
(`ledger.audience`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, print_json, print_table, say, to_the_minute
from moltpipe.cli.session import session
from moltpipe.ledger.audience import pilots_of
from moltpipe.ledger.periods import (
    EndsBeforeStart,
    OutcomeMissing,
    OutcomeUnreadable,
    PeriodNotOver,
    PeriodOverlaps,
    SettingRefused,
    UnknownPeriodId,
    change_voting_settings,
    close_early,
    close_period,
    create_period,
    list_periods,
    open_due_periods,
    unprocessed_periods,
    voting_settings,
)
from moltpipe.studio.audience import ClipOutcome, NothingToSelect
from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Period
from moltpipe.studio.voting import Cadence, WinnerScope, period_state

app = typer.Typer(
    help="List, create and close voting periods, and set how they are made and won.", no_args_is_help=True
)


class NothingToClose(Exception):
    """No period was named, and it cannot be told which one is meant."""


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """Every voting period, the newest last. A vote on variants tells of which pilot."""
    with session() as opened, opened.database.begin() as db:
        periods = list_periods(db)
        pilots = pilots_of(db)
    if as_json:
        print_json(
            {"periods": [_row(one) | {"state": period_state(one), "episode": pilots.get(one.id)} for one in periods]}
        )
    elif periods:
        print_periods(
            [(str(one.id), one.starts_at, one.ends_at, period_state(one)) for one in periods],
            {str(period_id): partition_key for period_id, partition_key in pilots.items()},
        )
    else:
        say("no voting period yet: `moltpipe period create` makes one, and so does the schedule of `moltpipe up`")


@app.command()
def create(
    starts_at: Annotated[str, typer.Option(metavar="TIME", help="ISO 8601, such as 2026-12-07T00:00Z.")],
    ends_at: Annotated[str, typer.Option(metavar="TIME", help="ISO 8601, after the start.")],
    as_json: Json = False,
) -> None:
    """Create a vote on scripts. Times without a zone are UTC. Votes on variants open by themselves."""
    starts, ends = _moment(starts_at, "--starts-at"), _moment(ends_at, "--ends-at")
    with session() as opened:
        try:
            with opened.database.begin() as db:
                period = create_period(db, "agent_voting", starts, ends)
                open_due_periods(db, datetime.now(UTC))
        except (PeriodOverlaps, EndsBeforeStart) as error:
            complain(f"refused: {error}")
            sys.exit(1)
    if as_json:
        print_json(_row(period))
    else:
        say(f"created {period.id}  {spelled(starts)} to {spelled(ends)}")


@app.command()
def close(
    period_id: Annotated[
        UUID | None, typer.Argument(metavar="PERIOD_ID", help="The period; if not given, the one that is on or over.")
    ] = None,
    early: Annotated[bool, typer.Option("--early", help="Close before its time. Recorded, needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why it is closed early.")] = None,
    as_json: Json = False,
) -> None:
    """Close a vote of either kind that is over, as the sensor does; or one before its time, with a reason."""
    why = (reason or "").strip()
    if early and not why:
        raise typer.BadParameter("closing early needs a --reason", param_hint="--early")
    if reason is not None and not early:
        raise typer.BadParameter("only closing --early needs a reason", param_hint="--reason")
    with session() as opened:
        now = datetime.now(UTC)
        try:
            with opened.database.begin() as db:
                if period_id is None:
                    pilots = pilots_of(db, unprocessed_only=True)
                    period_id = _the_one_meant(unprocessed_periods(db), pilots, now, early=early).id
                rules = voting_settings(db).rules
                outcome = (
                    close_early(db, period_id, rules, now, why) if early else close_period(db, period_id, rules, now)
                )
        except (
            PeriodNotOver,
            UnknownPeriodId,
            OutcomeMissing,
            OutcomeUnreadable,
            NothingToClose,
            NothingToSelect,
        ) as error:
            complain(f"refused: {error}")
            sys.exit(1)
    if as_json:
        print_json(outcome.to_json())
        return
    say(f"closed {outcome.period_id}: {outcome.summary}")
    if outcome.closed_early_reason is not None:
        say(f"closed early: {outcome.closed_early_reason}")
    if isinstance(outcome, ClipOutcome):
        print_table(
            ["rank", "variant", "votes"],
            [(rank, one.variant_number, one.votes) for rank, one in enumerate(outcome.ranking, start=1)],
            numbers=["rank", "variant", "votes"],
        )
        return
    for winner in outcome.winners:
        say(f"“{winner.title}” becomes series {winner.series_id}")


@app.command()
def settings(
    cadence: Annotated[Cadence | None, typer.Option(help="How often a period is made.")] = None,
    winner_scope: Annotated[WinnerScope | None, typer.Option(help="Among whom one script wins.")] = None,
    min_votes: Annotated[int | None, typer.Option(help="Votes that a winner needs at least.")] = None,
    min_score: Annotated[int | None, typer.Option(help="Score that a winner needs at least.")] = None,
    voting_minutes: Annotated[int | None, typer.Option(help="How long a vote on scripts lasts.")] = None,
    clip_voting_minutes: Annotated[
        int | None, typer.Option(help="How long a vote on the variants of a pilot lasts, from when all are out.")
    ] = None,
    start_weekday: Annotated[int | None, typer.Option(help="Day of a weekly period, Monday is 0.")] = None,
    start_hour_utc: Annotated[int | None, typer.Option(help="Hour of a weekly or daily period.")] = None,
    as_json: Json = False,
) -> None:
    """Show the voting settings, or change some of them. Kept in the database, for every process alike."""
    given = {
        "cadence": cadence,
        "winner_scope": winner_scope,
        "min_votes": min_votes,
        "min_score": min_score,
        "voting_minutes": voting_minutes,
        "clip_voting_minutes": clip_voting_minutes,
        "start_weekday": start_weekday,
        "start_hour_utc": start_hour_utc,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    with session() as opened, opened.database.begin() as db:
        try:
            now = change_voting_settings(db, **changes) if changes else voting_settings(db)
        except SettingRefused as error:
            raise typer.BadParameter(error.rule, param_hint=f"--{error.name.replace('_', '-')}") from error
    rows = now.model_dump(mode="json")
    if as_json:
        print_json(rows)
    else:
        print_table(["setting", "value"], [(name, str(value)) for name, value in rows.items()])


def print_periods(rows: Sequence[tuple[str, datetime, datetime, str]], pilots: Mapping[str, str] | None = None) -> None:
    """Id, start, end and state of each period, within 80 columns; `pilots`: the partition key, by id of a vote on one.

    No table: the line below a vote on variants would widen its first column.
    """
    say(f"{'id':<36} {'starts (UTC)':<16} {'ends (UTC)':<16} state")
    for period_id, starts, ends, state in rows:
        say(f"{period_id} {to_the_minute(starts)} {to_the_minute(ends)} {state}")
        if pilots and period_id in pilots:
            say(f"  on the variants of {pilots[period_id]}")


def _the_one_meant(periods: Sequence[Period], pilots: Mapping[UUID, str], now: datetime, *, early: bool) -> Period:
    """The only period of those that are over; where there is none, of those that began; else of all.

    To be closed early, those that are on come before those that are over: these need no reason.
    """
    over = [period for period in periods if period.ends_at <= now]
    on = [period for period in periods if period.starts_at <= now < period.ends_at]
    choice = ((on or over) if early else (over or on)) or periods
    if not choice:
        raise NothingToClose("there is no voting period to close")
    if len(choice) > 1:
        listed = "".join(
            f"\n  {one.id}  {spelled(one.starts_at)} to {spelled(one.ends_at)}"
            + (f"\n    on the variants of {pilots[one.id]}" if one.id in pilots else "")
            for one in choice
        )
        raise NothingToClose(f"name the one to close:{listed}")
    return choice[0]


def _moment(text: str, option: str) -> datetime:
    # What we print ourselves can be pasted back.
    plain = text.strip().removesuffix(" UTC")
    try:
        moment = datetime.fromisoformat(plain)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        expected = f"{text!r} is no time: expected ISO 8601, such as 2026-12-07T00:00Z"
        raise typer.BadParameter(expected, param_hint=option) from error


def _row(period: Period) -> dict[str, object]:
    return {
        "id": str(period.id),
        "period_type": period.period_type,
        "starts_at": period.starts_at.isoformat(),
        "ends_at": period.ends_at.isoformat(),
    }
