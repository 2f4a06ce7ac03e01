"""`moltpipe vote`: one agent, one script, up or down."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import typer

from moltpipe.cli.options import Agent, Json
from moltpipe.cli.report import complain, print_json, say
from moltpipe.cli.session import session
from moltpipe.ledger.periods import open_due_periods
from moltpipe.ledger.votes import NotInVoting, VoteRefused, cast_vote


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="vote")(vote)


def vote(
    script_id: Annotated[
        UUID, typer.Argument(metavar="SCRIPT_ID", help="The script, as `moltpipe submit` printed it.")
    ],
    agent: Agent,
    up: Annotated[bool, typer.Option("--up", help="For the script.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Against it.")] = False,
    as_json: Json = False,
) -> None:
    """Cast a vote, change it, or withdraw it by casting the same again."""
    if up == down:
        raise typer.BadParameter("say one of them", param_hint="--up|--down")
    with session() as opened:
        now = datetime.now(UTC)
        try:
            with opened.database.begin() as db:
                # A period that became due a second ago takes votes even if the sensor has not looked yet.
                open_due_periods(db, now)
            with opened.database.begin() as db:
                ballot = cast_vote(db, script_id, agent, 1 if up else -1, now)
        except VoteRefused as error:
            complain(f"refused: {error}")
            if isinstance(error, NotInVoting) and error.status == "submitted":
                complain("it waits for a vote to open: `moltpipe period list` shows when")
            sys.exit(1)
    if as_json:
        print_json(
            {
                "script_id": str(script_id),
                "agent": agent,
                "kind": ballot.kind,
                "upvotes": ballot.upvotes,
                "downvotes": ballot.downvotes,
                "score": ballot.score,
            }
        )
    else:
        say(f"{ballot.kind}: the script stands at {ballot.score:+d} ({ballot.upvotes} up, {ballot.downvotes} down)")
