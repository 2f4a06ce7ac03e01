"""The first ledger: every table, the two views of progress, the one row of voting settings.

Here: SQL as it was on that day. `ledger.schema` goes on, this does not: a database that has run it never runs
it again, so a change is a new revision.
"""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
CREATE TABLE studios (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    slug TEXT NOT NULL,
    name TEXT NOT NULL,
    genre TEXT NOT NULL,
    agent_name TEXT NOT NULL,
    CONSTRAINT pk_studios PRIMARY KEY (id),
    CONSTRAINT uq_studios_slug UNIQUE (slug)
)
""",
    """
CREATE TABLE voting_periods (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    period_type TEXT NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    is_active BOOLEAN DEFAULT false NOT NULL,
    is_processed BOOLEAN DEFAULT false NOT NULL,
    processed_at timestamptz,
    closed_early_reason TEXT,
    outcome JSONB,
    CONSTRAINT pk_voting_periods PRIMARY KEY (id),
    CONSTRAINT ck_voting_periods_period_type CHECK (period_type IN ('agent_voting', 'clip_voting')),
    CONSTRAINT ck_voting_periods_ends_after_start CHECK (ends_at > starts_at),
    CONSTRAINT ck_voting_periods_processed_when_over
        CHECK (NOT is_processed OR (processed_at >= ends_at) IS TRUE OR closed_early_reason IS NOT NULL),
    CONSTRAINT ck_voting_periods_processed_with_outcome CHECK (NOT is_processed OR outcome IS NOT NULL),
    CONSTRAINT ck_voting_periods_active_or_processed CHECK (NOT (is_active AND is_processed)),
    CONSTRAINT ck_voting_periods_closed_early_reason CHECK (length(trim(closed_early_reason)) > 0),
    CONSTRAINT ex_voting_periods_no_overlap EXCLUDE USING gist (tstzrange(starts_at, ends_at) WITH &&)
        WHERE (period_type = 'agent_voting')
)
""",
    """
CREATE TABLE voting_settings (
    only_row BOOLEAN DEFAULT true NOT NULL,
    cadence TEXT DEFAULT 'weekly' NOT NULL,
    winner_scope TEXT DEFAULT 'genre' NOT NULL,
    min_votes INTEGER DEFAULT '1' NOT NULL,
    min_score INTEGER DEFAULT '1' NOT NULL,
    voting_minutes INTEGER DEFAULT '1440' NOT NULL,
    start_weekday SMALLINT DEFAULT '0' NOT NULL,
    start_hour_utc SMALLINT DEFAULT '0' NOT NULL,
    CONSTRAINT pk_voting_settings PRIMARY KEY (only_row),
    CONSTRAINT ck_voting_settings_only_row CHECK (only_row),
    CONSTRAINT ck_voting_settings_cadence CHECK (cadence IN ('weekly', 'daily', 'immediate')),
    CONSTRAINT ck_voting_settings_winner_scope CHECK (winner_scope IN ('genre', 'period')),
    CONSTRAINT ck_voting_settings_min_votes CHECK (min_votes >= 1),
    CONSTRAINT ck_voting_settings_voting_minutes CHECK (voting_minutes BETWEEN 1 AND 43200),
    CONSTRAINT ck_voting_settings_start_weekday CHECK (start_weekday BETWEEN 0 AND 6),
    CONSTRAINT ck_voting_settings_start_hour_utc CHECK (start_hour_utc BETWEEN 0 AND 23)
)
""",
    """
CREATE TABLE limited_series (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    script_id UUID NOT NULL,
    studio_id UUID NOT NULL,
    slug TEXT NOT NULL,
    title TEXT NOT NULL,
    logline TEXT NOT NULL,
    genre TEXT NOT NULL,
    medium TEXT NOT NULL,
    series_bible JSONB NOT NULL,
    poster_spec JSONB NOT NULL,
    poster_key TEXT,
    created_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_limited_series PRIMARY KEY (id),
    CONSTRAINT ck_limited_series_medium CHECK (medium IN ('video', 'audio')),
    CONSTRAINT uq_limited_series_script_id UNIQUE (script_id),
    CONSTRAINT fk_limited_series_studio_id FOREIGN KEY (studio_id) REFERENCES studios (id)
)
""",
    """
CREATE TABLE scripts (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    studio_id UUID NOT NULL,
    title TEXT NOT NULL,
    logline TEXT NOT NULL,
    genre TEXT NOT NULL,
    medium TEXT DEFAULT 'video' NOT NULL,
    script_data JSONB NOT NULL,
    pilot_status TEXT DEFAULT 'draft' NOT NULL,
    voting_period_id UUID,
    series_id UUID,
    submitted_at timestamptz,
    CONSTRAINT pk_scripts PRIMARY KEY (id),
    CONSTRAINT ck_scripts_medium CHECK (medium IN ('video', 'audio')),
    CONSTRAINT ck_scripts_pilot_status
        CHECK (pilot_status IN ('draft', 'submitted', 'voting', 'selected', 'rejected')),
    CONSTRAINT ck_scripts_selected_has_series CHECK (pilot_status <> 'selected' OR series_id IS NOT NULL),
    CONSTRAINT ck_scripts_voting_has_period CHECK (pilot_status <> 'voting' OR voting_period_id IS NOT NULL),
    CONSTRAINT ck_scripts_submitted_has_time CHECK (pilot_status = 'draft' OR submitted_at IS NOT NULL),
    CONSTRAINT fk_scripts_studio_id FOREIGN KEY (studio_id) REFERENCES studios (id),
    CONSTRAINT fk_scripts_voting_period_id FOREIGN KEY (voting_period_id) REFERENCES voting_periods (id),
    CONSTRAINT fk_scripts_series_id FOREIGN KEY (series_id) REFERENCES limited_series (id)
)
""",
    """
CREATE INDEX ix_scripts_pilot_status ON scripts (pilot_status)
""",
    """
CREATE INDEX ix_scripts_voting_period_id ON scripts (voting_period_id)
""",
    """
CREATE TABLE script_votes (
    script_id UUID NOT NULL,
    agent_name TEXT NOT NULL,
    value SMALLINT NOT NULL,
    cast_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_script_votes PRIMARY KEY (script_id, agent_name),
    CONSTRAINT ck_script_votes_value CHECK (value IN (-1, 1)),
    CONSTRAINT fk_script_votes_script_id FOREIGN KEY (script_id) REFERENCES scripts (id)
)
""",
    """
CREATE TABLE episodes (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    series_id UUID NOT NULL,
    episode_number SMALLINT NOT NULL,
    title TEXT NOT NULL,
    partition_key TEXT NOT NULL,
    CONSTRAINT pk_episodes PRIMARY KEY (id),
    CONSTRAINT uq_episodes_series_id_episode_number UNIQUE (series_id, episode_number),
    CONSTRAINT ck_episodes_episode_number CHECK (episode_number BETWEEN 1 AND 5),
    CONSTRAINT ck_episodes_partition_key CHECK (partition_key ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    CONSTRAINT fk_episodes_series_id FOREIGN KEY (series_id) REFERENCES limited_series (id),
    CONSTRAINT uq_episodes_partition_key UNIQUE (partition_key)
)
""",
    """
CREATE TABLE shots (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    episode_id UUID NOT NULL,
    shot_number SMALLINT NOT NULL,
    prompt JSONB NOT NULL,
    audio JSONB NOT NULL,
    gen_clip_seconds FLOAT NOT NULL,
    duration_seconds FLOAT NOT NULL,
    edit_extend_strategy TEXT NOT NULL,
    CONSTRAINT pk_shots PRIMARY KEY (id),
    CONSTRAINT uq_shots_episode_id_shot_number UNIQUE (episode_id, shot_number),
    CONSTRAINT ck_shots_shot_number CHECK (shot_number >= 1),
    CONSTRAINT ck_shots_lengths CHECK (gen_clip_seconds > 0 AND duration_seconds > 0),
    CONSTRAINT ck_shots_edit_extend_strategy
        CHECK (edit_extend_strategy IN ('none', 'hold_last_frame', 'slow_2d_pan', 'loop_subtle_motion', 'speed_ramp')),
    CONSTRAINT fk_shots_episode_id FOREIGN KEY (episode_id) REFERENCES episodes (id)
)
""",
    """
CREATE TABLE provider_jobs (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    fingerprint CHAR(64) NOT NULL,
    engine TEXT NOT NULL,
    operation TEXT NOT NULL,
    state TEXT NOT NULL,
    external_id TEXT,
    cost_usd NUMERIC(12, 6) DEFAULT '0' NOT NULL,
    request JSONB NOT NULL,
    error_class TEXT,
    error TEXT,
    process_uuid TEXT NOT NULL,
    submitted_at timestamptz,
    finished_at timestamptz,
    CONSTRAINT pk_provider_jobs PRIMARY KEY (id),
    CONSTRAINT ck_provider_jobs_operation CHECK (operation IN ('write', 'speak', 'film', 'compose')),
    CONSTRAINT ck_provider_jobs_state
        CHECK (state IN ('claimed', 'submitting', 'submitted', 'running', 'succeeded', 'ingested',
            'failed', 'ambiguous', 'canceled', 'expired')),
    CONSTRAINT ck_provider_jobs_cost_usd CHECK (cost_usd >= 0)
)
""",
    """
CREATE INDEX ix_provider_jobs_state ON provider_jobs (state)
""",
    """
CREATE UNIQUE INDEX uq_provider_jobs_live_fingerprint ON provider_jobs (fingerprint)
    WHERE state NOT IN ('failed', 'canceled', 'expired')
""",
    """
CREATE TABLE voiceovers (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    shot_id UUID NOT NULL,
    take_number SMALLINT NOT NULL,
    media_key TEXT NOT NULL,
    sha256 CHAR(64) NOT NULL,
    bytes BIGINT NOT NULL,
    duration_seconds FLOAT NOT NULL,
    words JSONB NOT NULL,
    provider_job_id UUID,
    CONSTRAINT pk_voiceovers PRIMARY KEY (id),
    CONSTRAINT uq_voiceovers_shot_id_take_number UNIQUE (shot_id, take_number),
    CONSTRAINT ck_voiceovers_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT ck_voiceovers_bytes CHECK (bytes > 0),
    CONSTRAINT ck_voiceovers_duration_seconds CHECK (duration_seconds > 0),
    CONSTRAINT fk_voiceovers_shot_id FOREIGN KEY (shot_id) REFERENCES shots (id),
    CONSTRAINT uq_voiceovers_media_key UNIQUE (media_key),
    CONSTRAINT fk_voiceovers_provider_job_id FOREIGN KEY (provider_job_id) REFERENCES provider_jobs (id)
)
""",
    """
CREATE TABLE takes (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    shot_id UUID NOT NULL,
    variant_number SMALLINT NOT NULL,
    take_number SMALLINT NOT NULL,
    media_key TEXT NOT NULL,
    sha256 CHAR(64) NOT NULL,
    bytes BIGINT NOT NULL,
    duration_seconds FLOAT NOT NULL,
    probe JSONB NOT NULL,
    provider_job_id UUID,
    is_current BOOLEAN DEFAULT true NOT NULL,
    CONSTRAINT pk_takes PRIMARY KEY (id),
    CONSTRAINT uq_takes_shot_id_variant_number_take_number UNIQUE (shot_id, variant_number, take_number),
    CONSTRAINT ck_takes_variant_number CHECK (variant_number BETWEEN 1 AND 4),
    CONSTRAINT ck_takes_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT ck_takes_bytes CHECK (bytes > 0),
    CONSTRAINT ck_takes_duration_seconds CHECK (duration_seconds > 0),
    CONSTRAINT fk_takes_shot_id FOREIGN KEY (shot_id) REFERENCES shots (id),
    CONSTRAINT uq_takes_media_key UNIQUE (media_key),
    CONSTRAINT fk_takes_provider_job_id FOREIGN KEY (provider_job_id) REFERENCES provider_jobs (id)
)
""",
    """
CREATE UNIQUE INDEX uq_takes_current ON takes (shot_id, variant_number)
    WHERE is_current
""",
    """
CREATE TABLE clip_variants (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    episode_id UUID NOT NULL,
    variant_number SMALLINT NOT NULL,
    video_key TEXT NOT NULL,
    sha256 CHAR(64) NOT NULL,
    bytes BIGINT NOT NULL,
    duration_seconds FLOAT NOT NULL,
    captions_key TEXT NOT NULL,
    thumbnail_key TEXT NOT NULL,
    ingredients TEXT DEFAULT '' NOT NULL,
    is_selected BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT pk_clip_variants PRIMARY KEY (id),
    CONSTRAINT uq_clip_variants_episode_id_variant_number UNIQUE (episode_id, variant_number),
    CONSTRAINT ck_clip_variants_variant_number CHECK (variant_number BETWEEN 1 AND 4),
    CONSTRAINT ck_clip_variants_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT ck_clip_variants_bytes CHECK (bytes > 0),
    CONSTRAINT ck_clip_variants_duration_seconds CHECK (duration_seconds > 0),
    CONSTRAINT fk_clip_variants_episode_id FOREIGN KEY (episode_id) REFERENCES episodes (id),
    CONSTRAINT uq_clip_variants_video_key UNIQUE (video_key)
)
""",
    """
CREATE UNIQUE INDEX uq_clip_variants_selected ON clip_variants (episode_id)
    WHERE is_selected
""",
    """
CREATE TABLE clip_votes (
    clip_variant_id UUID NOT NULL,
    voter_key TEXT NOT NULL,
    cast_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_clip_votes PRIMARY KEY (clip_variant_id, voter_key),
    CONSTRAINT fk_clip_votes_clip_variant_id FOREIGN KEY (clip_variant_id) REFERENCES clip_variants (id)
)
""",
    """
CREATE TABLE production_jobs (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    episode_id UUID NOT NULL,
    job_type TEXT NOT NULL,
    priority INTEGER DEFAULT '0' NOT NULL,
    process_uuid TEXT,
    attempt_count INTEGER DEFAULT '0' NOT NULL,
    max_attempts INTEGER DEFAULT '3' NOT NULL,
    available_at timestamptz DEFAULT now() NOT NULL,
    claimed_at timestamptz,
    heartbeat_at timestamptz,
    completed_at timestamptz,
    last_error TEXT,
    CONSTRAINT pk_production_jobs PRIMARY KEY (id),
    CONSTRAINT uq_production_jobs_episode_id_job_type UNIQUE (episode_id, job_type),
    CONSTRAINT ck_production_jobs_job_type CHECK (job_type IN ('pilot_variants', 'single_episode')),
    CONSTRAINT ck_production_jobs_attempts CHECK (attempt_count >= 0 AND max_attempts >= 1),
    CONSTRAINT ck_production_jobs_heartbeat_has_owner
        CHECK (process_uuid IS NOT NULL OR heartbeat_at IS NULL),
    CONSTRAINT ck_production_jobs_claimed_has_owner CHECK ((process_uuid IS NULL) = (claimed_at IS NULL)),
    CONSTRAINT fk_production_jobs_episode_id FOREIGN KEY (episode_id) REFERENCES episodes (id)
)
""",
    """
CREATE INDEX ix_production_jobs_waiting ON production_jobs (priority, available_at)
    WHERE completed_at IS NULL
""",
    """
ALTER TABLE limited_series ADD CONSTRAINT fk_limited_series_script_id
    FOREIGN KEY (script_id) REFERENCES scripts (id)
""",
)

EPISODE_PROGRESS = """
CREATE VIEW episode_progress AS
SELECT
    e.id AS episode_id,
    e.series_id,
    e.episode_number,
    e.partition_key,
    CASE
        WHEN d.variants_done >= w.variants_wanted THEN 'completed'
        WHEN j.process_uuid IS NOT NULL THEN 'producing'
        WHEN j.attempt_count >= j.max_attempts THEN 'failed'
        ELSE 'pending'
    END AS status,
    d.variants_done,
    w.variants_wanted,
    coalesce(j.attempt_count, 0) AS attempt_count,
    j.last_error
FROM episodes AS e
CROSS JOIN LATERAL (SELECT CASE WHEN e.episode_number = 1 THEN 4 ELSE 1 END AS variants_wanted) AS w
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS variants_done
    FROM clip_variants AS v
    WHERE v.episode_id = e.id AND v.variant_number <= w.variants_wanted
) AS d
LEFT JOIN production_jobs AS j
    ON j.episode_id = e.id
    AND j.job_type = CASE WHEN e.episode_number = 1 THEN 'pilot_variants' ELSE 'single_episode' END
"""

# completed: all five episodes are. failed: one is, and nothing more happens by itself. active: there is
# something to watch. producing: work has begun. pending: it has not. The order matters: in the old system one
# terminally failed episode left its series `active` for ever.
SERIES_PROGRESS = """
CREATE VIEW series_progress AS
SELECT
    s.id AS series_id,
    CASE
        WHEN c.episodes_completed = 5 THEN 'completed'
        WHEN c.episodes_failed > 0 AND c.episodes_pending + c.episodes_producing = 0 THEN 'failed'
        WHEN c.episodes_completed > 0 THEN 'active'
        WHEN c.episodes_producing + c.episodes_failed > 0 THEN 'producing'
        ELSE 'pending'
    END AS status,
    c.episodes_pending,
    c.episodes_producing,
    c.episodes_completed,
    c.episodes_failed
FROM limited_series AS s
CROSS JOIN LATERAL (
    SELECT
        (count(*) FILTER (WHERE p.status = 'pending'))::integer AS episodes_pending,
        (count(*) FILTER (WHERE p.status = 'producing'))::integer AS episodes_producing,
        (count(*) FILTER (WHERE p.status = 'completed'))::integer AS episodes_completed,
        (count(*) FILTER (WHERE p.status = 'failed'))::integer AS episodes_failed
    FROM episode_progress AS p
    WHERE p.series_id = s.id
) AS c
"""


def upgrade() -> None:
    """Make everything."""
    for statement in (*TABLES, EPISODE_PROGRESS, SERIES_PROGRESS, "INSERT INTO voting_settings DEFAULT VALUES"):
        # Straight to the driver: a colon in SQL is not a parameter here.
        op.get_bind().exec_driver_sql(statement)
