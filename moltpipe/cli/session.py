"""What a command needs before it can do its work: settings, services, a migrated ledger, a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moltpipe.ledger.database import Database
from moltpipe.runtime.house import open_house
from moltpipe.runtime.services import open_store
from moltpipe.settings import Settings, load_settings
from moltpipe.store import Store


@dataclass(frozen=True)
class Session:
    """An open ledger and store, with the settings that led to them."""

    settings: Settings
    database: Database
    store: Store


@contextmanager
def session() -> Iterator[Session]:
    """Start or join the services, migrate, and open ledger and store for one command.

    Raises:
        SettingsError: a setting is wrong.
        ServiceError: a service did not start.
    """
    settings = load_settings()
    with open_house(settings) as house:
        database = Database(house.services.database_url.get_secret_value())
        try:
            yield Session(settings, database, open_store(house.services, settings.s3_bucket))
        finally:
            database.dispose()
