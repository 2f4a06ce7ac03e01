"""`moltpipe period`: list, create, close, and the cadence by which periods are made."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from moltpipe.cli.report import Json, complain, out, print_json, print_table
from moltpipe.cli.session import session
from moltpipe.ledger.periods import (
    EndsBeforeStart,
    PeriodNotOver,
    PeriodOverlaps,
    UnknownPeriodId,
    change_voting_settings,
    close_early,
    close_period,
    create_period,
    list_periods,
    open_due_periods,
    voting_settings,
)
from moltpipe.studio.records import Period
from moltpipe.studio.voting import period_state

app = typer.Typer(help="Voting periods.", no_args_is_help=True)


@app.command(name="list")
def list_(as_json: Json = False) -> None:
    """Every voting period, the newest last."""
    with session() as opened, opened.database.begin() as db:
        periods = list_periods(db)
    rows = [_row(period) | {"state": period_state(period)} for period in periods]
    if as_json:
        print_json({"periods": rows})
    else:
        print_table("Voting periods", ["id", "type", "starts", "ends", "state"], [list(row.values()) for row in rows])


@app.command()
def create(
    starts_at: Annotated[str, typer.Option(help="ISO 8601, such as 2026-12-07T00:00Z.")],
    ends_at: Annotated[str, typer.Option(help="ISO 8601, after the start.")],
    as_json: Json = False,
) -> None:
    """Create an agent voting period. Times without a zone are UTC."""
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
        out.print(f"created {period.id}: {starts:%Y-%m-%d %H:%M:%S} to {ends:%Y-%m-%d %H:%M:%S} UTC", markup=False)


@app.command()
def close(
    period_id: Annotated[UUID | None, typer.Argument(help="The period; the open one if not given.")] = None,
    early: Annotated[bool, typer.Option("--early", help="Close before its time. Recorded, needs --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why it is closed early.")] = None,
    as_json: Json = False,
) -> None:
    """Close a period that is over, as the sensor does; or one before its time, with a reason."""
    if early != bool(reason and reason.strip()):
        raise typer.BadParameter("--early and --reason go together", param_hint="--early")
    with session() as opened:
        now = datetime.now(UTC)
        try:
            with opened.database.begin() as db:
                chosen = period_id or _the_open_one(list_periods(db))
                rules = voting_settings(db).rules
                if reason:
                    outcome = close_early(db, chosen, rules, now, reason.strip())
                else:
                    outcome = close_period(db, chosen, rules, now)
        except (PeriodNotOver, UnknownPeriodId, NothingToClose) as error:
            complain(f"refused: {error}")
            sys.exit(1)
    if as_json:
        print_json(outcome.model_dump(mode="json"))
    else:
        out.print(outcome.summary, markup=False)


@app.command()
def cadence(
    rhythm: Annotated[str | None, typer.Argument(help="weekly, daily or immediate; shown if not given.")] = None,
) -> None:
    """Show or set how often a voting period is made. Kept in the database."""
    if rhythm is not None and rhythm not in ("weekly", "daily", "immediate"):
        raise typer.BadParameter("expected weekly, daily or immediate", param_hint="rhythm")
    with session() as opened, opened.database.begin() as db:
        if rhythm is not None:
            change_voting_settings(db, cadence=rhythm)
        out.print(voting_settings(db).cadence, markup=False)


class NothingToClose(Exception):
    """No period was named, and there is not exactly one that is open."""


def _the_open_one(periods: list[Period]) -> UUID:
    unprocessed = [period for period in periods if not period.is_processed]
    if len(unprocessed) != 1:
        names = ", ".join(str(period.id) for period in unprocessed) or "there is none"
        raise NothingToClose(f"name the period to close; not processed yet: {names}")
    return unprocessed[0].id


def _moment(text: str, option: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not ISO 8601, such as 2026-12-07T00:00Z", param_hint=option) from error
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def _row(period: Period) -> dict[str, object]:
    return {
        "id": str(period.id),
        "period_type": period.period_type,
        "starts_at": period.starts_at.isoformat(),
        "ends_at": period.ends_at.isoformat(),
    }
