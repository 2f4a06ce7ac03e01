"""First come, first served: when a call that waits for a place at its provider last asked for one.

Here: SQL as it was on that day, as in the first revision.
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add when a waiting call last asked. Nothing is written to the rows that are there: none of them asks."""
    op.get_bind().exec_driver_sql("ALTER TABLE provider_jobs ADD COLUMN asked_at TIMESTAMP WITH TIME ZONE")
