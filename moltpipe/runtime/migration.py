"""Bringing the whole database to the newest schema: the ledger's tables, and Dagster's beside them.

Here: what `moltpipe migrate` does, and how it is told whether something is pending. Not here: the ledger's revisions
(`ledger.migrate`), what `open_house` makes sure of before every command (the ledger alone).

Dagster creates its tables when a process first opens the instance and finds none, and changes them only when it is
told to. Under a role that may create nothing the first process of a deployment would fail in the middle of that; so
this runs first, as the owner of the tables.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from moltpipe.ledger.migrate import MigrationRefused, Revisions, alone, migrate, revisions

_LINES_SHOWN = 5


@dataclass(frozen=True)
class Part:
    """One of the two sets of tables, and where it stands."""

    name: str
    before: str | None
    """None where there were no tables."""
    now: str | None
    newest: str

    @property
    def pending(self) -> bool:
        """Whether something is left to be done."""
        return self.now != self.newest


def look(variables: Mapping[str, str]) -> list[Part]:
    """Where both stand, by the variables of `runtime.environment`. Changes nothing.

    Of Dagster the schema's revision is compared. That of the data in it is not told by Dagster without changing it.

    Raises:
        DatabaseUnavailable: Postgres cannot be reached.
    """
    ours = revisions(variables["MOLTPIPE_DATABASE_URL"])
    theirs = _dagster(variables)
    return [_part("ledger", ours, ours), _part("dagster", theirs, theirs)]


def bring_up_to_date(variables: Mapping[str, str], environ: Mapping[str, str]) -> list[Part]:
    """Migrate both, one process at a time; may be run again at any moment.

    Args:
        variables: those of `runtime.environment`.
        environ: the whole environment of a child process.

    Raises:
        MigrationRefused: as `ledger.migrate.migrate`, or Dagster's own migration failed.
        DatabaseUnavailable: Postgres cannot be reached.
    """
    url = variables["MOLTPIPE_DATABASE_URL"]
    with alone(url):
        ours, theirs = migrate(url), _dagster(variables)
        _migrate_dagster(environ)
        return [_part("ledger", ours, revisions(url)), _part("dagster", theirs, _dagster(variables))]


def _part(name: str, before: Revisions, now: Revisions) -> Part:
    return Part(name, before.current, now.current, now.newest)


def _dagster(variables: Mapping[str, str]) -> Revisions:
    # A second and a half to import, which no other command need pay.
    from dagster_postgres import PostgresRunStorage  # noqa: PLC0415

    storage = PostgresRunStorage(variables["MOLTPIPE_DAGSTER_POSTGRES_URL"], should_autocreate_tables=False)
    try:
        current, newest = storage.alembic_version()
    finally:
        storage.dispose()
    assert isinstance(newest, str)  # noqa: S101 - Dagster's history has one end
    return Revisions(current, newest)


def _migrate_dagster(environ: Mapping[str, str]) -> None:
    """Dagster's own command, in a process of its own: it reads the instance's configuration from its environment.

    It also moves data (indices over runs and assets) that a new version of Dagster wants in another form.
    """
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "instance", "migrate"],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = "\n".join(done.stdout.strip().splitlines()[-_LINES_SHOWN:])
        raise MigrationRefused(f"`dagster instance migrate` failed with status {done.returncode}:\n{said}")
