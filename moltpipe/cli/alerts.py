"""`moltpipe alerts`: what is wrong and not over, who has not been told of it yet, and whether the channels work.

Here: telling it. Not here: what is wrong (`ledger.checks`), sending (`moltpipe.alerting`; the daemon's `alert_sensor`
does it).
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from moltpipe.alerting import Channel, channels, require_channels, send
from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, print_json, say
from moltpipe.cli.session import session
from moltpipe.ledger.incidents import Incident, Undelivered, open_incidents, undelivered_alerts
from moltpipe.settings import load_settings, variable
from moltpipe.studio.alerts import Message
from moltpipe.studio.moments import spelled

_TRIAL = Message(
    "moltpipe: a test", "This is a test by `moltpipe alerts --test`. Alerts of this house arrive here.", "success"
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="alerts")(alerts)


def alerts(
    is_trial: Annotated[
        bool, typer.Option("--test", help="Send a test message through every channel; exit 1 when one fails.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List open incidents and the alerts that no channel has taken yet."""
    if is_trial:
        _try_channels(as_json=as_json)
        return
    with session() as opened, opened.database.begin() as db:
        incidents, undelivered = open_incidents(db), undelivered_alerts(db)
    known = {channel.id: channel for channel in channels(opened.settings.alert_urls)}
    if as_json:
        print_json(
            {
                "channels": [{"id": channel.id, "name": channel.name} for channel in known.values()],
                "incidents": [_incident(one, opened.settings.ui_url) for one in incidents],
                "undelivered": [_undelivered(one, known) for one in undelivered],
            }
        )
        return
    _tell(incidents, undelivered, known, opened.settings.ui_url)


def _try_channels(*, as_json: bool) -> None:
    urls = load_settings().alert_urls
    require_channels(urls)
    tried = [(channel, send(channel, _TRIAL)) for channel in channels(urls)]
    if as_json:
        print_json(
            {
                "channels": [
                    {"id": channel.id, "name": channel.name, "sent": error is None, "error": error}
                    for channel, error in tried
                ]
            }
        )
    else:
        for channel, error in tried:
            say(f"sent     {channel.name}" if error is None else f"FAILED   {error}")
    if not tried:
        complain(f"{variable('alert_urls')} is not set: nobody would be told of anything")
    sys.exit(0 if tried and all(error is None for _, error in tried) else 1)


def _tell(
    incidents: list[Incident], undelivered: list[Undelivered], known: dict[str, Channel], ui_url: str | None
) -> None:
    if not incidents:
        say("no incident is open")
    for one in incidents:
        say(f"{'ERROR  ' if one.severity == 'error' else 'warning'}  {one.title}, since {spelled(one.opened_at)}")
        say(f"  {one.subject}")
        for line in one.body.splitlines():
            say(f"  {line}")
        if one.remedy:
            say(f"  remedy: {one.remedy}")
        if one.path:
            say(f"  {_link(one.path, ui_url)}")
        say()
    for late in undelivered:
        what = late.title if late.kind == "opened" else f"over: {late.title}"
        counted = f"{late.attempts} attempt{'' if late.attempts == 1 else 's'} failed"
        tries = f", {counted}, next at {spelled(late.due_at)}" if late.attempts else ""
        say(f"not sent  {what}: {_name(late.channel, known)}{tries}")
        if late.last_error:
            say(f"  {late.last_error}")
    if not known:
        say(f"{variable('alert_urls')} is not set: nobody is told of anything")


def _link(path: str, ui_url: str | None) -> str:
    return f"{ui_url}{path}" if ui_url else f"in the Dagster UI: {path}"


def _name(channel: str, known: dict[str, Channel]) -> str:
    if channel in known:
        return known[channel].name
    return f"a channel that is not in {variable('alert_urls')} any more"


def _incident(one: Incident, ui_url: str | None) -> dict[str, Any]:
    return {
        "subject": one.subject,
        "severity": one.severity,
        "title": one.title,
        "body": one.body,
        "remedy": one.remedy,
        "path": one.path,
        "url": f"{ui_url}{one.path}" if ui_url and one.path else None,
        "opened_at": one.opened_at.isoformat(),
    }


def _undelivered(one: Undelivered, known: dict[str, Channel]) -> dict[str, Any]:
    return {
        "subject": one.subject,
        "kind": one.kind,
        "channel": one.channel,
        "name": known[one.channel].name if one.channel in known else None,
        "due_at": one.due_at.isoformat(),
        "attempts": one.attempts,
        "last_error": one.last_error,
    }
