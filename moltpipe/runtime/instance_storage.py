"""Dagster's tables over connections that stay open: what `dagster.yaml` names as its storage.

Here: the pool. Not here: the tables, which are those of `dagster_postgres`.

`dagster_postgres` opens a connection for every statement and closes it again (`NullPool`), so that processes with many
instances gather none. A run writes hundreds of events and the daemon looks some twenty times a second, and each time
both sides prove who they are and Postgres starts a process. The pool is one per process, so many instances share it,
and a connection is asked whether it still lives before it is used, so a restart of Postgres is met as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._config import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from moltpipe.ledger.database import CONNECT_TIMEOUT_S, NOTICE_A_DEAD_SERVER

_KEPT_OPEN = 2
"""Per process. More are opened as they are needed, and closed again."""
_NO_LIMIT = -1
_found: set[str] = set()
"""Databases in which this process has found Dagster's tables, or made them."""


class PooledPostgresStorage(DagsterPostgresStorage):
    """`DagsterPostgresStorage` with one pool for the whole process."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Whether the tables are there is asked once per process. A sensor's tick has an instance of its own.
        super().__init__(postgres_url, should_autocreate_tables=postgres_url not in _found, inst_data=inst_data)
        _found.add(postgres_url)
        engine = _engine(postgres_url)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine  # noqa: SLF001 - the one way in: no argument of theirs reaches their pool

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """The address alone; Dagster's own class takes its parts as well, which nobody here writes."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PooledPostgresStorage:
        """From `dagster.yaml`."""
        return cls(config_value["postgres_url"], inst_data)


@cache
def _engine(postgres_url: str) -> sa.Engine:
    # What the address says of these goes before.
    said = sa.make_url(postgres_url).query
    wanted = {**NOTICE_A_DEAD_SERVER, "connect_timeout": CONNECT_TIMEOUT_S}
    return sa.create_engine(
        postgres_url,
        isolation_level="AUTOCOMMIT",
        pool_size=_KEPT_OPEN,
        max_overflow=_NO_LIMIT,
        pool_pre_ping=True,
        connect_args={name: value for name, value in wanted.items() if name not in said},
    )
