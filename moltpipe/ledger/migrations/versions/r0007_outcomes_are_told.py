"""Dagster is told of every outcome, whoever closed the vote.

Here: SQL as it was on that day, as in the first revision.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE voting_periods ADD COLUMN told_at TIMESTAMP WITH TIME ZONE",
    # The sensor told of what it closed in the same tick. Adopted rows that break a rule cannot be written at all.
    """
    UPDATE voting_periods SET told_at = processed_at
    WHERE is_processed AND outcome IS NOT NULL AND (processed_at >= ends_at OR closed_early_reason IS NOT NULL)
    """,
    "CREATE INDEX ix_voting_periods_untold ON voting_periods (processed_at) WHERE is_processed AND told_at IS NULL",
)


def upgrade() -> None:
    """Add when that was, and the index by which those that wait for it are found."""
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
