"""The cutting room: transitions, the sound of clips, what the delivery gate found, and series that are only heard.

Here: SQL as it was on that day, as in the first revision. The views learn that the pilot of an audio series has one
variant, because variants differ in their pictures.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
ALTER TABLE shots
    ADD COLUMN transition TEXT DEFAULT 'cut' NOT NULL,
    ADD CONSTRAINT ck_shots_transition CHECK (transition IN ('cut', 'crossfade', 'fade_through_black'))
""",
    """
ALTER TABLE takes
    ADD COLUMN sound_key TEXT,
    ADD COLUMN sound_sha256 CHAR(64),
    ADD COLUMN sound_bytes BIGINT,
    ADD COLUMN sound_seconds FLOAT,
    ADD CONSTRAINT uq_takes_sound_key UNIQUE (sound_key),
    ADD CONSTRAINT ck_takes_sound_is_whole
        CHECK (num_nulls(sound_key, sound_sha256, sound_bytes, sound_seconds) IN (0, 4))
""",
    "ALTER TABLE clip_variants ADD COLUMN delivery JSONB",
    """
CREATE OR REPLACE VIEW episode_progress AS
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
JOIN limited_series AS s ON s.id = e.series_id
CROSS JOIN LATERAL (
    SELECT CASE WHEN e.episode_number = 1 AND s.medium = 'video' THEN 4 ELSE 1 END AS variants_wanted
) AS w
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS variants_done
    FROM clip_variants AS v
    WHERE v.episode_id = e.id AND v.variant_number <= w.variants_wanted
) AS d
LEFT JOIN production_jobs AS j
    ON j.episode_id = e.id
    AND j.job_type = CASE WHEN e.episode_number = 1 THEN 'pilot_variants' ELSE 'single_episode' END
""",
)


def upgrade() -> None:
    """Add what the cutting room records."""
    for statement in STATEMENTS:
        # Straight to the driver: a colon in SQL is not a parameter here.
        op.get_bind().exec_driver_sql(statement)
