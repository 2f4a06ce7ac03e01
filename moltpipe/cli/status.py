"""`moltpipe status`: where each thing is and what it waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from moltpipe.cli.report import Json, out, print_json, print_table
from moltpipe.cli.session import session
from moltpipe.ledger.status import status as read_status


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="status")(status)


def status(as_json: Json = False) -> None:
    """Periods, scripts, series, episodes, jobs and spend."""
    with session() as opened, opened.database.begin() as db:
        document = read_status(db, datetime.now(UTC), timedelta(seconds=opened.settings.lease_s))
    if as_json:
        print_json(document)
    else:
        _tell(document)


def _tell(document: dict[str, Any]) -> None:
    print_table(
        "Voting periods",
        ["id", "starts", "ends", "state"],
        [[one["id"], one["starts_at"], one["ends_at"], one["state"]] for one in document["periods"]],
    )
    for series in document["series"]:
        print_table(
            f"{series['title']} · {series['status']}",
            ["episode", "partition", "status", "variants", "waits for"],
            [
                [
                    one["episode_number"],
                    one["partition_key"],
                    one["status"],
                    f"{one['variants_done']} of {one['variants_wanted']}",
                    one["waiting_for"],
                ]
                for one in series["episodes"]
            ],
        )
    counts = ", ".join(f"{count} {name}" for name, count in document["scripts"].items()) or "none"
    jobs = ", ".join(f"{count} {name}" for name, count in document["jobs"].items())
    out.print(f"scripts: {counts}\njobs: {jobs}\nspent: {document['spend_usd']:.2f} USD", markup=False)
