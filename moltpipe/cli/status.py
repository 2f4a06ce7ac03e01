"""`moltpipe status`: where each thing is and what it waits for.

Here: telling it to people. Not here: finding it out (`ledger.status`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.period import print_periods
from moltpipe.cli.report import heading, print_json, print_table, say, to_the_minute
from moltpipe.cli.session import session
from moltpipe.ledger.status import status as read_status
from moltpipe.studio.moments import spelled

_PAST_SHOWN = 3


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="status")(status)


def status(
    everything: Annotated[bool, typer.Option("--all", help="Tell of everything that is finished as well.")] = False,
    as_json: Json = False,
) -> None:
    """Where each thing is and what it waits for: periods, scripts, series, episodes, jobs, paid calls, spend.

    Of the series that are finished and the periods that are closed, only the newest.
    """
    with session() as opened, opened.database.begin() as db:
        lease = timedelta(seconds=opened.settings.lease_s)
        document = read_status(db, datetime.now(UTC), lease, everything=everything)
    if as_json:
        print_json(document)
        return
    _tell_periods(document["periods"], document["periods_left_out"], everything=everything)
    for series in document["series"]:
        _tell_series(series)
    if document["series_left_out"]:
        say(f"and {document['series_left_out']} series that are finished: `moltpipe status --all`")
        say()
    _tell_calls(document["calls"]["ambiguous"])
    _tell_engines(document["engines"])
    say(f"scripts: {_counts(document['scripts'])}")
    say(f"jobs: {_counts(document['jobs'])}")
    in_flight = document["calls"]["in_flight"]
    if in_flight:
        say(f"calls: {in_flight} in flight")
    reserved = document["reserved_usd"]
    say(f"spent: {document['spend_usd']:.2f} USD" + (f", of which {reserved:.2f} are reserved" if reserved else ""))


def _tell_periods(periods: list[dict[str, Any]], left_out: int, *, everything: bool) -> None:
    past = [one for one in periods if one["state"] == "processed"]
    shown = periods if everything else past[-_PAST_SHOWN:] + [one for one in periods if one["state"] != "processed"]
    if not shown:
        say("no voting period yet: `moltpipe period create` makes one")
        return
    print_periods(
        [
            (one["id"], datetime.fromisoformat(one["starts_at"]), datetime.fromisoformat(one["ends_at"]), one["state"])
            for one in shown
        ],
        {one["id"]: one["episode"] for one in shown if one["episode"] is not None},
    )
    more = len(periods) - len(shown) + left_out
    if more:
        say(f"and {more} that were processed before: `moltpipe period list`")
    say()


def _tell_series(series: dict[str, Any]) -> None:
    heading(f"{series['title']} · {series['status']}")
    widest = max(len(one["partition_key"]) for one in series["episodes"]) if series["episodes"] else 0
    for one in series["episodes"]:
        made = f"{one['variants_done']} of {one['variants_wanted']}"
        say(f"  {one['partition_key']:<{widest}}  {one['status']:<9}  {made}")
        if one["waiting_for"] is not None:
            say(f"    waits for {one['waiting_for']}")
        if one["progress"] is not None and one["progress"]["shots"]:
            say(f"    has {_made(one['progress'])}")
        if one["variants_wanted"] > 1 and one["variants"]:
            say(f"    votes {_standing(one['variants'])}")
    say()


def _made(progress: dict[str, int]) -> str:
    """How far an episode is: `7 shots, 5 lines spoken, 12 of 28 takes`."""
    told = [f"{progress['shots']} shots", f"{progress['voiceovers']} lines spoken"]
    if progress["takes_wanted"]:
        told.append(f"{progress['takes']} of {progress['takes_wanted']} takes")
    return ", ".join(told)


def _standing(variants: list[dict[str, Any]]) -> str:
    """How the variants of a pilot stand with the audience: `1: 0, 2: 3 (selected), 3: 1, 4: 0`."""
    return ", ".join(
        f"{one['variant_number']}: {one['votes']}{' (selected)' if one['is_selected'] else ''}" for one in variants
    )


def _tell_calls(ambiguous: list[dict[str, Any]]) -> None:
    if not ambiguous:
        return
    heading("calls that may have been accepted: a person decides")
    for one in ambiguous:
        of = "" if one["shot"] is None else f", shot {one['shot']}"
        say(f"  {one['id']}  {one['engine']}  {one['reserved_usd']:.2f} USD")
        say(f"    for {one['episode'] or 'no episode'}{of}, since {spelled(datetime.fromisoformat(one['since']))}")
        if one["error"]:
            say(f"    {one['error']}")
    say("  `moltpipe repair --resubmit CALL_ID` sends a request again, `--give-up CALL_ID` leaves it")
    say()


def _tell_engines(engines: list[dict[str, Any]]) -> None:
    """The accounts that have calls in flight or are blocked; the others are at rest."""
    busy = [one for one in engines if one["in_flight"] or one["blocked_until"]]
    if not busy:
        return
    print_table(
        ["account", "in flight", "blocked until UTC", "why"],
        [
            (
                one["account"],
                one["in_flight"],
                to_the_minute(datetime.fromisoformat(one["blocked_until"])) if one["blocked_until"] else "",
                one["why"] or "",
            )
            for one in busy
        ],
        numbers=["in flight"],
    )
    say()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
