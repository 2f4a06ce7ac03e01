"""`moltpipe vote`: one agent, one script, up or down."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from moltpipe.cli.report import Json, complain, out, print_json
from moltpipe.cli.session import session
from moltpipe.ledger.periods import open_due_periods
from moltpipe.ledger.votes import VoteRefused, cast_vote


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="vote")(vote)


def vote(
    script_id: Annotated[UUID, typer.Argument(help="The script, as `moltpipe submit` printed it.")],
    agent: Annotated[str, typer.Option(help="The agent that votes.")],
    up: Annotated[bool | None, typer.Option("--up/--down", help="For or against.")] = None,
    as_json: Json = False,
) -> None:
    """Cast a vote, change it, or withdraw it by casting the same again."""
    if up is None:
        raise typer.BadParameter("say --up or --down", param_hint="--up/--down")
    if not agent.strip():
        raise typer.BadParameter("an agent needs a name", param_hint="--agent")
    with session() as opened:
        now = datetime.now(UTC)
        try:
            with opened.database.begin() as db:
                # A period that became due a second ago takes votes even if the sensor has not looked yet.
                open_due_periods(db, now)
            with opened.database.begin() as db:
                ballot = cast_vote(db, script_id, agent.strip(), 1 if up else -1, now)
        except VoteRefused as error:
            complain(f"refused: {error}")
            sys.exit(1)
    if as_json:
        print_json({"script_id": str(script_id), "agent": agent, "kind": ballot.kind, "score": ballot.score})
    else:
        out.print(f"{ballot.kind}: the script stands at {ballot.score:+d}", markup=False)
