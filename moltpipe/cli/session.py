"""What a command needs before it can do its work: settings, services, a migrated ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moltpipe.ledger.database import Database
from moltpipe.runtime.house import open_house
from moltpipe.settings import Settings, load_settings


@dataclass(frozen=True)
class Session:
    """An open ledger, with the settings that led to it."""

    settings: Settings
    database: Database


@contextmanager
def session() -> Iterator[Session]:
    """Start or join the services, migrate, and open the ledger for one command.

    Raises:
        SettingsError: a setting is wrong.
        ServiceError: a service did not start.
        MigrationRefused: the ledger is none that this moltpipe can use.
        DatabaseUnavailable: Postgres cannot be reached.
    """
    settings = load_settings()
    with open_house(settings) as house:
        database = Database(house.services.database_url.get_secret_value())
        try:
            yield Session(settings, database)
        finally:
            database.dispose()
