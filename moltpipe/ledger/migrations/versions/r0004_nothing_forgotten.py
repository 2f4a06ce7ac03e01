"""Nothing is forgotten: the second vote, the audit of repairs, incidents with their alerts, and what sweeps found.

Here: SQL as it was on that day, as in the first revision. A clip vote without an episode could be made before and did
nothing; such rows are removed.
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

AUDIENCE = (
    "DELETE FROM voting_periods WHERE period_type = 'clip_voting'",
    """
ALTER TABLE voting_periods
    ADD COLUMN episode_id UUID,
    ADD CONSTRAINT fk_voting_periods_episode_id FOREIGN KEY (episode_id) REFERENCES episodes (id),
    ADD CONSTRAINT ck_voting_periods_clip_voting_has_episode
        CHECK ((period_type = 'clip_voting') = (episode_id IS NOT NULL))
""",
    "CREATE UNIQUE INDEX uq_voting_periods_episode_id ON voting_periods (episode_id)",
    "CREATE INDEX ix_voting_periods_ends_at ON voting_periods (ends_at) WHERE NOT is_processed",
    """
ALTER TABLE voting_settings
    ADD COLUMN clip_voting_minutes INTEGER DEFAULT 2880 NOT NULL,
    ADD CONSTRAINT ck_voting_settings_clip_voting_minutes CHECK (clip_voting_minutes BETWEEN 1 AND 20160)
""",
    "ALTER TABLE clip_variants ADD CONSTRAINT uq_clip_variants_id_episode_id UNIQUE (id, episode_id)",
    "ALTER TABLE clip_votes ADD COLUMN episode_id UUID",
    "UPDATE clip_votes SET episode_id = v.episode_id FROM clip_variants AS v WHERE v.id = clip_variant_id",
    # Of several votes of one voter the newest counts.
    """
DELETE FROM clip_votes AS older USING clip_votes AS newer
WHERE older.episode_id = newer.episode_id AND older.voter_key = newer.voter_key
    AND (older.cast_at, older.clip_variant_id) < (newer.cast_at, newer.clip_variant_id)
""",
    """
ALTER TABLE clip_votes
    ALTER COLUMN episode_id SET NOT NULL,
    DROP CONSTRAINT fk_clip_votes_clip_variant_id,
    ADD CONSTRAINT uq_clip_votes_episode_id_voter_key UNIQUE (episode_id, voter_key),
    ADD CONSTRAINT fk_clip_votes_variant
        FOREIGN KEY (clip_variant_id, episode_id) REFERENCES clip_variants (id, episode_id)
""",
)

WATCH = (
    """
CREATE TABLE audit (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    by TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    what TEXT NOT NULL,
    before JSONB,
    after JSONB,
    CONSTRAINT pk_audit PRIMARY KEY (id)
)
""",
    "CREATE INDEX ix_audit_at ON audit (at)",
    "CREATE INDEX ix_audit_subject ON audit (subject)",
    """
CREATE TABLE incidents (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    subject TEXT NOT NULL,
    severity TEXT NOT NULL,
    title TEXT NOT NULL,
    body TEXT NOT NULL,
    remedy TEXT DEFAULT '' NOT NULL,
    path TEXT DEFAULT '' NOT NULL,
    opened_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    closed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_incidents PRIMARY KEY (id),
    CONSTRAINT ck_incidents_severity CHECK (severity IN ('error', 'warning'))
)
""",
    "CREATE UNIQUE INDEX uq_incidents_open ON incidents (subject) WHERE closed_at IS NULL",
    """
CREATE TABLE alerts (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    incident_id UUID NOT NULL,
    kind TEXT NOT NULL,
    channel TEXT NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    attempts INTEGER DEFAULT 0 NOT NULL,
    held_until TIMESTAMP WITH TIME ZONE,
    sent_at TIMESTAMP WITH TIME ZONE,
    message_id UUID,
    last_error TEXT,
    CONSTRAINT pk_alerts PRIMARY KEY (id),
    CONSTRAINT uq_alerts_incident_id_kind_channel UNIQUE (incident_id, kind, channel),
    CONSTRAINT fk_alerts_incident_id FOREIGN KEY (incident_id) REFERENCES incidents (id),
    CONSTRAINT ck_alerts_kind CHECK (kind IN ('opened', 'closed')),
    CONSTRAINT ck_alerts_attempts CHECK (attempts >= 0)
)
""",
    "CREATE INDEX ix_alerts_due ON alerts (channel, due_at) WHERE sent_at IS NULL",
    "CREATE INDEX ix_alerts_sent_at ON alerts (channel, sent_at)",
    """
CREATE TABLE watchers (
    name TEXT NOT NULL,
    ticked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_watchers PRIMARY KEY (name)
)
""",
    """
CREATE TABLE sweeps (
    name TEXT NOT NULL,
    cursor TEXT DEFAULT '' NOT NULL,
    began_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    completed_at TIMESTAMP WITH TIME ZONE,
    error TEXT,
    CONSTRAINT pk_sweeps PRIMARY KEY (name)
)
""",
    """
CREATE TABLE observations (
    check_name TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail JSONB NOT NULL,
    since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_observations PRIMARY KEY (check_name, subject)
)
""",
)

# What is served of an episode: its selected variant. Of a pilot there is none before its second vote is over.
SERVED = """
CREATE VIEW served_episodes AS
SELECT
    s.id AS series_id,
    e.id AS episode_id,
    e.episode_number,
    e.partition_key,
    v.id AS clip_variant_id,
    v.variant_number,
    v.video_key,
    v.captions_key,
    v.thumbnail_key,
    v.duration_seconds
FROM limited_series AS s
JOIN episodes AS e ON e.series_id = s.id
JOIN clip_variants AS v ON v.episode_id = e.id AND v.is_selected
"""

# For looks over everything, which must stay cheap with a million takes.
INDEXES: tuple[str, ...] = (
    # Keys in the order in which S3 lists them, which is that of their bytes, whatever the locale of the database.
    'CREATE INDEX ix_takes_media_key_bytewise ON takes (media_key COLLATE "C")',
    'CREATE INDEX ix_takes_sound_key_bytewise ON takes (sound_key COLLATE "C") WHERE sound_key IS NOT NULL',
    'CREATE INDEX ix_voiceovers_media_key_bytewise ON voiceovers (media_key COLLATE "C")',
    'CREATE INDEX ix_scores_media_key_bytewise ON scores (media_key COLLATE "C")',
    'CREATE INDEX ix_clip_variants_video_key_bytewise ON clip_variants (video_key COLLATE "C")',
    'CREATE INDEX ix_clip_variants_captions_key_bytewise ON clip_variants (captions_key COLLATE "C")',
    'CREATE INDEX ix_clip_variants_thumbnail_key_bytewise ON clip_variants (thumbnail_key COLLATE "C")',
    """
CREATE INDEX ix_limited_series_poster_key_bytewise ON limited_series (poster_key COLLATE "C")
    WHERE poster_key IS NOT NULL
""",
    # What must not be, and is not: indexes that stay empty, so that a look over all of history reads nothing.
    """
CREATE INDEX ix_voting_periods_processed_early ON voting_periods (processed_at)
    WHERE is_processed AND (processed_at >= ends_at) IS NOT TRUE AND closed_early_reason IS NULL
""",
    """
CREATE INDEX ix_episodes_against_the_rule ON episodes (partition_key)
    WHERE partition_key !~ '^[a-z0-9][a-z0-9_-]{0,62}$'
""",
    # How many variants an episode is to have, without reading the bible beside it.
    "CREATE INDEX ix_limited_series_id_medium ON limited_series (id, medium)",
    "CREATE INDEX ix_voting_periods_newest ON voting_periods (period_type, ends_at) WHERE is_processed",
    # Few jobs are owned at any time, and a sensor asks for them each second.
    "CREATE INDEX ix_production_jobs_owned ON production_jobs (process_uuid) WHERE process_uuid IS NOT NULL",
    # All the money there ever was, without reading the requests beside it.
    "CREATE INDEX ix_provider_jobs_paid ON provider_jobs (cost_usd, reserved_usd) WHERE cost_usd + reserved_usd > 0",
    "CREATE INDEX ix_provider_jobs_reserved ON provider_jobs (reserved_usd) WHERE reserved_usd > 0",
)


def upgrade() -> None:
    """Add what the watch needs."""
    for statement in (*AUDIENCE, *WATCH, SERVED, *INDEXES):
        # Straight to the driver: a colon in SQL is not a parameter here.
        op.get_bind().exec_driver_sql(statement)
