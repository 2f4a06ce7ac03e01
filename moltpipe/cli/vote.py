"""`moltpipe vote`: an agent on a script, up or down, or on the variants of a pilot, for one of them.

Here: which of the two votes the words mean. Not here: whether a vote counts (`ledger.votes`, `ledger.audience`).
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, NoReturn
from uuid import UUID

import typer

from moltpipe.cli.options import Agent, Json
from moltpipe.cli.report import complain, print_json, say
from moltpipe.cli.session import session
from moltpipe.ledger.audience import (
    ClipBallot,
    NoClipVote,
    cast_clip_vote,
    find_episode,
    find_variant,
    withdraw_clip_vote,
)
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import open_due_periods
from moltpipe.ledger.production import UnknownEpisode
from moltpipe.ledger.votes import Ballot, NotInVoting, VoteRefused, cast_vote
from moltpipe.studio.audience import agent_voter
from moltpipe.studio.screenplay import PILOT_VARIANTS

_NUMBERS = tuple(str(number) for number in range(1, PILOT_VARIANTS + 1))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="vote")(vote)


def vote(
    on: Annotated[
        str | None,
        typer.Argument(
            metavar="SCRIPT_ID|EPISODE",
            help="The script, as `moltpipe submit` printed it; with --variant or --withdraw the pilot, by partition "
            "key or id.",
            show_default=False,
        ),
    ] = None,
    *,
    agent: Agent,
    up: Annotated[bool, typer.Option("--up", help="For the script.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Against it.")] = False,
    variant: Annotated[
        str | None,
        typer.Option(metavar="N|VARIANT_ID", help="For this variant: its number, or its id without an EPISODE."),
    ] = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take back the vote on the EPISODE's variants.")] = False,
    as_json: Json = False,
) -> None:
    """Vote on a script, or for one variant of a pilot.

    On a script the opposite vote changes yours, and the same again withdraws it.

    On variants you have one vote per pilot: it moves to the one that you name last, the same again changes nothing.
    """
    if variant is None and not withdraw:
        _on_script(_script_id(on), agent, up=up, down=down, as_json=as_json)
        return
    if up or down:
        _misused("--up|--down", "these are for a script: name a variant, or a script with one of them")
    if withdraw and variant is not None:
        _misused("--withdraw", "it takes back whatever was voted for on an EPISODE: leave --variant out")
    _on_variants(on, agent, variant, as_json=as_json)


def _on_script(script_id: UUID, agent: str, *, up: bool, down: bool, as_json: bool) -> None:
    if up == down:
        _misused("--up|--down", "say one of them; --variant is for the variants of a pilot")
    with session() as opened:
        try:
            ballot = _cast(opened.database, script_id, agent, up=up)
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


def _cast(database: Database, script_id: UUID, agent: str, *, up: bool) -> Ballot:
    now = datetime.now(UTC)
    with database.begin() as db:
        # A period that became due a second ago takes votes even if the sensor has not looked yet.
        open_due_periods(db, now)
    with database.begin() as db:
        return cast_vote(db, script_id, agent, 1 if up else -1, now)


def _on_variants(on: str | None, agent: str, variant: str | None, *, as_json: bool) -> None:
    wish, voter = _wish(on, variant), agent_voter(agent)
    with session() as opened:
        now = datetime.now(UTC)
        try:
            with opened.database.begin() as db:
                if isinstance(wish, UUID):
                    ballot = cast_clip_vote(db, wish, voter, now)
                else:
                    named, number = wish
                    episode = find_episode(db, named)
                    ballot = (
                        withdraw_clip_vote(db, episode.id, voter, now)
                        if number is None
                        else cast_clip_vote(db, find_variant(db, episode, number), voter, now)
                    )
        except (VoteRefused, UnknownEpisode) as error:
            complain(f"refused: {error}")
            if isinstance(error, NoClipVote | UnknownEpisode):
                complain("`moltpipe period list` shows which votes are on")
            sys.exit(1)
    if as_json:
        print_json(
            {
                "variant_id": str(ballot.variant.variant_id) if ballot.variant else None,
                "episode": ballot.partition_key,
                "variant_number": ballot.variant.variant_number if ballot.variant else None,
                "agent": agent,
                "kind": ballot.kind,
                "votes": [{"variant_number": one.variant_number, "votes": one.votes} for one in ballot.standing],
            }
        )
    else:
        say(f"{_what_became_of_it(ballot)}: {_standing(ballot)}")


def _what_became_of_it(ballot: ClipBallot) -> str:
    of = ballot.partition_key
    if ballot.variant is None:
        return f"withdrawn from {of}" if ballot.kind == "withdrawn" else f"unchanged, you have no vote on {of}"
    verb = {"cast": "cast for", "moved": "moved to", "unchanged": "unchanged, your vote is for"}[ballot.kind]
    return f"{verb} variant {ballot.variant.variant_number} of {of}"


def _standing(ballot: ClipBallot) -> str:
    first, *others = [f"{one.variant_number} has {one.votes}" for one in ballot.standing]
    return ", ".join([f"{first} {'vote' if ballot.standing[0].votes == 1 else 'votes'}", *others])


def _script_id(on: str | None) -> UUID:
    if on is None:
        _misused("SCRIPT_ID", "name a script, or a variant by --variant")
    try:
        return UUID(on)
    except ValueError:
        _misused("SCRIPT_ID", f"{on!r} is no id of a script; for a vote on a pilot add --variant N")


def _wish(on: str | None, variant: str | None) -> UUID | tuple[str, int | None]:
    """What the vote is for: a variant by its id, or by episode and number. Without a number it is withdrawn."""
    if on is None:
        if variant is None:
            _misused("EPISODE", "say on whose variants, by partition key or id: `moltpipe status` lists them")
        return _variant_id(variant)
    if variant is not None and variant not in _NUMBERS:
        _misused("--variant", f"{variant!r} is no number of a variant: with an EPISODE expected 1 to {PILOT_VARIANTS}")
    return on, None if variant is None else int(variant)


def _variant_id(variant: str) -> UUID:
    try:
        return UUID(variant)
    except ValueError:
        _misused("--variant", f"{variant!r} is no id of a variant; a number needs the EPISODE before it")


def _misused(hint: str, message: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=hint)
