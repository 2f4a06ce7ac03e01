"""Locks that live as long as this process's connection: what a crash leaves behind, Postgres lets go itself.

Here: session-level advisory locks on one standing connection per process. Not here: what they guard
(`ledger.slots`).

A row that says "3 calls are running" was the alternative: after a crash it stays, and somebody has to decide
when it lies. Needs a direct connection: a pooler in transaction mode hands the session to others.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

_TAKE_ONE = sa.text(
    "SELECT place FROM unnest(CAST(:places AS integer[])) AS place WHERE pg_try_advisory_lock(:room, place) LIMIT 1"
)
_GIVE_BACK = sa.text("SELECT pg_advisory_unlock(:room, :place)")


class SessionLocks:
    """Advisory locks of this process, each a place in a room. Safe to share between threads.

    One connection holds them all: with one per lock, four runs of eight takes would fill a small server.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._guard = threading.Lock()
        self._standing: Connection | None = None
        self._held: set[tuple[int, int]] = set()

    def take_one(self, room: int, places: Sequence[int]) -> int | None:
        """Lock the first free of these places, or None when others hold them all. Does not wait.

        A place that this process holds counts as taken, although Postgres would give it out again to the
        same session.

        Raises:
            sqlalchemy.exc.OperationalError: Postgres cannot be reached.
        """
        with self._guard:
            connection = self._alive()
            free = [place for place in places if (room, place) not in self._held]
            place: int | None = connection.execute(_TAKE_ONE, {"room": room, "places": free}).scalar_one_or_none()
            if place is not None:
                self._held.add((room, place))
            return place

    def give_back(self, room: int, place: int) -> None:
        """Let go of a place. One that was lost with its connection is no error."""
        with self._guard:
            if (room, place) not in self._held:
                return
            self._held.discard((room, place))
            if self._standing is not None:
                try:
                    self._standing.execute(_GIVE_BACK, {"room": room, "place": place})
                except sa.exc.OperationalError:
                    self._forget()

    def close(self) -> None:
        """Let go of everything."""
        with self._guard:
            self._forget()

    def _alive(self) -> Connection:
        """The standing connection, made anew when the last one died; the locks died with it."""
        if self._standing is not None:
            try:
                self._standing.execute(sa.text("SELECT 1"))
            except sa.exc.OperationalError:
                self._forget()
        if self._standing is None:
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # Out of the pool: a returned connection would carry its locks to whoever gets it next.
            connection.detach()
            self._standing = connection
        return self._standing

    def _forget(self) -> None:
        self._held.clear()
        if self._standing is not None:
            self._standing.close()
            self._standing = None
