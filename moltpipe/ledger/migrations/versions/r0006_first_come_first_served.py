"""First come, first served: which processes have calls that wait for a place at a provider.

Here: SQL as it was on that day, as in the first revision.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENT = """
CREATE TABLE engine_queues (
    account TEXT NOT NULL,
    process_uuid TEXT NOT NULL,
    asked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_engine_queues PRIMARY KEY (account, process_uuid)
)
"""


def upgrade() -> None:
    """Add who waits where."""
    op.get_bind().exec_driver_sql(STATEMENT)
