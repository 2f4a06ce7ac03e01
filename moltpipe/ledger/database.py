"""The connection to Postgres: one small pool per process, one transaction per `begin()`.

Here: reading the URL, opening and closing, and what a lost connection is called. Not here: statements
(beside the transactions that run them), creating tables (`ledger.migrate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url

from moltpipe.ledger.locks import SessionLocks

CONNECT_TIMEOUT_S = 10
_POOL_SIZE = 5
_OVERFLOW = 10
_POSTGRES_PORT = 5432
_SESSION = (
    "-c idle_in_transaction_session_timeout=60s",
    "-c tcp_keepalives_idle=30",
    "-c tcp_keepalives_interval=10",
    "-c tcp_keepalives_count=3",
)
NOTICE_A_DEAD_SERVER = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""For libpq: a machine that is gone says nothing, and a connection that is kept open would wait for it for a quarter of
an hour."""
# Class 08 and what a server says when it goes down or is full; psycopg gives no state when it never got through.
_GONE = ("08", "57P", "53300")


class DatabaseUnavailable(Exception):
    """Postgres cannot be reached, refused the connection, or hung up in the middle of a transaction."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"PostgreSQL at {host}:{port} is not available: {reason}")
        self.host = host
        self.port = port
        self.reason = reason


class Database:
    """The ledger's database. Safe to share between threads; nothing connects before the first transaction.

    Raises:
        ValueError: the URL is not one of PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        self._url = psycopg_url(url)
        self._engine = engine_for(self._url)
        self.locks = SessionLocks(self._engine)

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """One transaction: committed when the body ends well, rolled back when it raises.

        Raises:
            DatabaseUnavailable: there is no connection, or it was lost on the way. What the body wrote is
                undone, unless the connection was lost during the commit itself, when nobody can tell.
        """
        with unavailable(self._url), self._engine.begin() as connection:
            yield connection

    def take_place(self, room: int, places: Sequence[int]) -> int | None:
        """`SessionLocks.take_one`, with a lost connection by its name.

        Raises:
            DatabaseUnavailable: there is no connection.
        """
        with unavailable(self._url):
            return self.locks.take_one(room, places)

    def dispose(self) -> None:
        """Close every connection. The database may be used again afterwards."""
        self.locks.close()
        self._engine.dispose()


def psycopg_url(url: str) -> URL:
    """The URL with psycopg 3 as its driver, whichever of the usual ways it was written in.

    SQLAlchemy knows no `postgres://`, and what `postgresql://` means has changed between its versions.

    Raises:
        ValueError: it is no URL, or one of another database.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        # The text is not shown: it may hold a password.
        raise ValueError("the database URL cannot be read: expected postgresql://user:password@host/name") from None
    if parsed.drivername.partition("+")[0] not in ("postgres", "postgresql"):
        raise ValueError(f"{parsed.drivername}:// is not PostgreSQL: expected postgresql://user:password@host/name")
    return parsed.set(drivername="postgresql+psycopg")


def engine_for(url: URL) -> Engine:
    """An engine with a small pool that asks whether a connection still lives before it is handed out.

    READ COMMITTED is said aloud because the locks rely on it: who waited for a row sees what the other wrote. A process
    that is stopped, or whose machine is gone, must not hold a row for ever: the server ends a transaction in which
    nothing happens, and both sides notice a peer that answers no more.
    """
    options = " ".join(filter(None, (_first(url.query.get("options")), *_SESSION)))
    arguments: dict[str, object] = {**NOTICE_A_DEAD_SERVER, "options": options}
    if "connect_timeout" not in url.query:
        arguments["connect_timeout"] = CONNECT_TIMEOUT_S
    return sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_size=_POOL_SIZE,
        max_overflow=_OVERFLOW,
        pool_pre_ping=True,
        connect_args=arguments,
    )


@contextmanager
def unavailable(url: URL) -> Iterator[None]:
    """Turn the driver's lost connections into `DatabaseUnavailable`; every other error passes."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        away = isinstance(error, sa.exc.OperationalError) and (state is None or state.startswith(_GONE))
        # The server may also end a session for another reason, such as a transaction that stood still for too long.
        if not (away or error.connection_invalidated):
            raise
        host, port = _address(url)
        raise DatabaseUnavailable(host, port, " ".join(str(error.orig).split())) from error


def _address(url: URL) -> tuple[str, int]:
    """Host (or socket folder) and port, as the URL or its query gives them."""
    host = url.host or _first(url.query.get("host")) or "localhost"
    return host, int(url.port or _first(url.query.get("port")) or _POSTGRES_PORT)


def _first(value: str | tuple[str, ...] | None) -> str | None:
    return value[0] if isinstance(value, tuple) else value
