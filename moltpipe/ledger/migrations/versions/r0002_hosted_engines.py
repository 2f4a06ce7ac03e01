"""Hosted engines: what a paid call is for, what it may cost, where it runs, and what came of it.

Here: SQL as it was on that day, as in the first revision. Rows that were there are of engines of the machine:
they cost nothing, and their money is of the day on which they were made, not of the day of the migration.
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
ALTER TABLE provider_jobs
    ADD COLUMN model TEXT DEFAULT '' NOT NULL,
    ADD COLUMN account TEXT,
    ADD COLUMN episode_id UUID,
    ADD COLUMN subject_id UUID,
    ADD COLUMN variant_number SMALLINT DEFAULT '0' NOT NULL,
    ADD COLUMN take_number SMALLINT DEFAULT '1' NOT NULL,
    ADD COLUMN reserved_usd NUMERIC(12, 6) DEFAULT '0' NOT NULL,
    ADD COLUMN claimed_at timestamptz DEFAULT now() NOT NULL,
    ADD COLUMN claimed_by TEXT,
    ADD COLUMN left_at timestamptz,
    ADD COLUMN result JSONB,
    ADD CONSTRAINT ck_provider_jobs_reserved_usd CHECK (reserved_usd >= 0),
    ADD CONSTRAINT fk_provider_jobs_episode_id FOREIGN KEY (episode_id) REFERENCES episodes (id)
""",
    """
UPDATE provider_jobs
SET claimed_at = coalesce(submitted_at, finished_at, claimed_at), claimed_by = process_uuid, left_at = submitted_at
""",
    "CREATE INDEX ix_provider_jobs_fingerprint ON provider_jobs (fingerprint, claimed_at)",
    "CREATE INDEX ix_provider_jobs_episode_id ON provider_jobs (episode_id)",
    "CREATE INDEX ix_provider_jobs_claimed_at ON provider_jobs (claimed_at)",
    "CREATE INDEX ix_provider_jobs_claimed_by ON provider_jobs (claimed_by)",
    "CREATE INDEX ix_provider_jobs_account_left_at ON provider_jobs (account, left_at)",
    "CREATE INDEX ix_provider_jobs_account_submitted_at ON provider_jobs (account, submitted_at)",
    """
CREATE TABLE engine_accounts (
    account TEXT NOT NULL,
    next_start_at timestamptz,
    blocked_until timestamptz,
    blocked_reason TEXT,
    circuit_opened INTEGER DEFAULT '0' NOT NULL,
    opened_at timestamptz,
    faults_in_a_row INTEGER DEFAULT '0' NOT NULL,
    probing_until timestamptz,
    CONSTRAINT pk_engine_accounts PRIMARY KEY (account),
    CONSTRAINT ck_engine_accounts_counts CHECK (circuit_opened >= 0 AND faults_in_a_row >= 0)
)
""",
    """
CREATE TABLE provider_events (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    provider TEXT NOT NULL,
    event_id TEXT NOT NULL,
    external_id TEXT NOT NULL,
    call_id UUID,
    status TEXT NOT NULL,
    received_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_provider_events PRIMARY KEY (id),
    CONSTRAINT uq_provider_events_provider_event_id UNIQUE (provider, event_id)
)
""",
    "CREATE INDEX ix_provider_events_call_id ON provider_events (call_id)",
    "CREATE INDEX ix_provider_events_external_id ON provider_events (external_id)",
    """
CREATE TABLE scores (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    episode_id UUID NOT NULL,
    take_number SMALLINT NOT NULL,
    media_key TEXT NOT NULL,
    sha256 CHAR(64) NOT NULL,
    bytes BIGINT NOT NULL,
    duration_seconds FLOAT NOT NULL,
    provider_job_id UUID,
    CONSTRAINT pk_scores PRIMARY KEY (id),
    CONSTRAINT uq_scores_episode_id_take_number UNIQUE (episode_id, take_number),
    CONSTRAINT ck_scores_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT ck_scores_bytes CHECK (bytes > 0),
    CONSTRAINT ck_scores_duration_seconds CHECK (duration_seconds > 0),
    CONSTRAINT fk_scores_episode_id FOREIGN KEY (episode_id) REFERENCES episodes (id),
    CONSTRAINT uq_scores_media_key UNIQUE (media_key),
    CONSTRAINT fk_scores_provider_job_id FOREIGN KEY (provider_job_id) REFERENCES provider_jobs (id)
)
""",
    """
ALTER TABLE shots
    ADD COLUMN kind TEXT,
    ADD COLUMN engine TEXT,
    ADD CONSTRAINT ck_shots_kind CHECK (kind IN ('generated', 'talking_head', 'stock', 'animatic'))
""",
)


def upgrade() -> None:
    """Add what paid calls need."""
    for statement in STATEMENTS:
        # Straight to the driver: a colon in SQL is not a parameter here.
        op.get_bind().exec_driver_sql(statement)
