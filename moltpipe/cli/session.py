"""What a command needs before it can do its work: settings, services, a migrated ledger."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moltpipe.cli.report import report
from moltpipe.ledger.database import Database
from moltpipe.runtime.house import open_house
from moltpipe.runtime.services import Services, open_store
from moltpipe.settings import Settings, load_settings
from moltpipe.store import A_LOOK, Store


@dataclass(frozen=True)
class Session:
    """An open ledger, with the settings that led to it."""

    settings: Settings
    database: Database
    services: Services

    def look(self) -> Store:
        """The media in S3, for looking at what is there. Opened on demand: it takes longer than most commands."""
        return open_store(self.services, self.settings.s3_bucket, A_LOOK)


@contextmanager
def session(*, with_keys: bool = True) -> Iterator[Session]:
    """Start or join the services, migrate, and open the ledger for one command.

    `with_keys` asks for the keys of the chosen engines, which who only listens or looks is not given.

    Raises:
        SettingsError: a setting is wrong.
        ServiceError: a service did not start.
        MigrationRefused: the ledger is none that this moltpipe can use.
        DatabaseUnavailable: Postgres cannot be reached.
    """
    settings = load_settings(with_keys=with_keys)
    tell_of_new_studio(settings)
    with open_house(settings) as house:
        database = Database(house.services.database_url.get_secret_value())
        try:
            yield Session(settings, database, house.services)
        finally:
            database.dispose()


def tell_of_new_studio(settings: Settings) -> None:
    """Say so where the command is the first in its `DATA_DIR`: in the wrong folder it makes another studio."""
    if settings.database_url is None and not settings.data_dir.exists():
        report(f"there is no studio in {settings.data_dir.resolve()} yet: making one")


def operator() -> str:
    """Who gives the command, by the name of the system's account."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return "an operator"
