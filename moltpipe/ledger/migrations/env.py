"""Run by Alembic for every command: where the connection comes from, and under which name revisions are noted.

The table is not Alembic's `alembic_version`: Dagster keeps its own under that name, maybe in this database.
"""

from __future__ import annotations

from alembic import context

from moltpipe.ledger.migrate import VERSION_TABLE
from moltpipe.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
