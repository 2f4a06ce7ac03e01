"""Retention: since when something is superseded, what is about to leave the store, and numbers never to come again.

Here: SQL as it was on that day, as in the first revision. Rows that were there before count from this day on: nobody
wrote down when they came, and too long is the safe side.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE takes ADD COLUMN recorded_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL",
    "ALTER TABLE voiceovers ADD COLUMN recorded_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL",
    "ALTER TABLE scores ADD COLUMN recorded_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL",
    "ALTER TABLE clip_variants ADD COLUMN published_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL",
    """
CREATE TABLE spent_numbers (
    subject_id UUID NOT NULL,
    variant_number SMALLINT NOT NULL,
    take_number SMALLINT NOT NULL,
    CONSTRAINT pk_spent_numbers PRIMARY KEY (subject_id, variant_number)
)
""",
    """
CREATE TABLE departures (
    key TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    episode_id UUID NOT NULL,
    since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_departures PRIMARY KEY (key),
    CONSTRAINT fk_departures_episode_id FOREIGN KEY (episode_id) REFERENCES episodes (id)
)
""",
    # What a prune looks for, without reading what it leaves alone.
    "CREATE INDEX ix_takes_superseded ON takes (id) WHERE NOT is_current",
    "CREATE INDEX ix_incidents_closed_at ON incidents (closed_at) WHERE closed_at IS NOT NULL",
    "CREATE INDEX ix_provider_events_received_at ON provider_events (received_at)",
    # Whether anything else was made of what a call delivered: a line may be spoken once for several shots.
    "CREATE INDEX ix_takes_provider_job_id ON takes (provider_job_id)",
    "CREATE INDEX ix_voiceovers_provider_job_id ON voiceovers (provider_job_id)",
    "CREATE INDEX ix_scores_provider_job_id ON scores (provider_job_id)",
)


def upgrade() -> None:
    """Add what retention needs."""
    for statement in STATEMENTS:
        # Straight to the driver: a colon in SQL is not a parameter here.
        op.get_bind().exec_driver_sql(statement)
