"""A studio with years behind it, made in seconds: what checks, status and sensors are tried on at scale.

Here: rows as the normal path would have left them, by statements that run in the server. Not here: damage (the tests
do that by hand). Ids come from a number by hash, so that no statement has to look up what another one made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.studio.screenplay import EPISODES_PER_SERIES, PILOT_VARIANTS
from moltpipe_tests.ledger.beginnings import DOCUMENT, RULES, pilot

SHOTS = len(pilot().shots)
TAKES_PER_SERIES = SHOTS * (PILOT_VARIANTS + EPISODES_PER_SERIES - 1)
GENRES = ("comedy", "drama", "horror", "mystery", "romance")
AGENTS = 50
IN_WORK = 10
"""Series that are not finished; one in five of them is at each step of the way."""


@dataclass(frozen=True)
class BigStudio:
    """How much of what there is now."""

    scripts: int
    series: int
    """Those in work among them."""
    agent_votes: int
    """Voting periods that are processed."""
    takes: int


def fill(db: Connection, *, scripts: int, takes: int) -> BigStudio:
    """Fill an empty ledger with about so many scripts and takes, all of them in order as of now.

    Raises:
        ValueError: there are not enough scripts for the series that so many takes make.
    """
    finished = takes // TAKES_PER_SERIES
    series = finished + IN_WORK
    agent_votes = -(-series // len(GENRES))
    if scripts < series * 2:
        raise ValueError(f"{scripts} scripts for {series} series: expected at least twice as many")
    shots = [
        {"prompt": shot.prompt.model_dump(mode="json"), "audio": shot.audio.model_dump(mode="json")}
        for shot in pilot().shots
    ]
    values: dict[str, Any] = {
        "scripts": scripts,
        "finished": finished,
        "series": series,
        "periods": agent_votes,
        "agents": AGENTS,
        "genres": list(GENRES),
        "document": DOCUMENT,
        "shots": shots,
        "rules": RULES.model_dump(mode="json"),
        "variants": PILOT_VARIANTS,
        "episodes": EPISODES_PER_SERIES,
    }
    rebuild = _without_indexes(db)
    documents = [sa.bindparam(name, type_=sa.JSON) for name in ("document", "shots", "rules")]
    for statement in (*_WORDS, *_VOTES, *_SERIES, *_MEDIA, *_CALLS, *rebuild, *_AUDIENCE, *_WORK, *_PAST):
        text = sa.text(statement)
        db.execute(text.bindparams(*(one for one in documents if f":{one.key}" in statement)), values)
    made = db.execute(sa.text("SELECT count(*) FROM takes")).scalar_one()
    return BigStudio(scripts=scripts, series=series, agent_votes=agent_votes, takes=made)


_LARGE = ("provider_jobs", "shots", "takes", "voiceovers")


def _without_indexes(db: Connection) -> list[str]:
    """Take the indexes off the large tables, and say how they are put back: that is several times as fast.

    Foreign keys are not looked at either while rows are written, row by row.
    """
    db.execute(sa.text("SET LOCAL session_replication_role = replica"))
    db.execute(sa.text("SET LOCAL maintenance_work_mem = '512MB'"))
    constraints = db.execute(
        sa.text(
            "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),"
            " format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))"
            " FROM pg_constraint WHERE contype = 'u' AND conrelid::regclass::text = ANY(:tables)"
        ),
        {"tables": list(_LARGE)},
    ).all()
    for drop, _ in constraints:
        db.execute(sa.text(drop))
    indexes = db.execute(
        sa.text(
            "SELECT format('DROP INDEX %I', indexname), indexdef FROM pg_indexes"
            " WHERE tablename = ANY(:tables) AND indexname NOT LIKE 'pk%'"
        ),
        {"tables": list(_LARGE)},
    ).all()
    for drop, _ in indexes:
        db.execute(sa.text(drop))
    return [*(make for _, make in constraints), *(make for _, make in indexes)]


# `an_id` gives the n-th row of a kind its id, `a_hash` its content's; `step` says how far a series is: 9 is finished.
_WORDS = (
    """
    CREATE FUNCTION pg_temp.an_id(kind text, n bigint) RETURNS uuid IMMUTABLE LANGUAGE sql
    RETURN md5(kind || n)::uuid
    """,
    """
    CREATE FUNCTION pg_temp.a_hash(kind text, n bigint) RETURNS text IMMUTABLE LANGUAGE sql
    RETURN encode(sha256((kind || n)::bytea), 'hex')
    """,
    """
    INSERT INTO studios (id, slug, name, genre, agent_name)
    SELECT pg_temp.an_id('studio', agent * 5 + g - 1), 'agent-' || agent || '-' || genre, 'Agent ' || agent, genre,
        'agent-' || agent
    FROM generate_series(0, :agents - 1) AS agent, unnest(CAST(:genres AS text[])) WITH ORDINALITY AS of (genre, g)
    """,
    # One after the other, two hours each, the last of them over for an hour.
    """
    CREATE TEMP TABLE past ON COMMIT DROP AS
    SELECT p, pg_temp.an_id('period', p) AS id, t.starts_at, t.starts_at + interval '2 hours' AS ends_at
    FROM generate_series(0, :periods - 1) AS p
    CROSS JOIN LATERAL (SELECT now() - interval '1 hour' - (:periods - p) * interval '2 hours' AS starts_at) AS t
    """,
    # The winners first, one of each genre and period; then those that lost; then those that wait, vote and are drafts.
    """
    CREATE TEMP TABLE filed ON COMMIT DROP AS
    SELECT i, pg_temp.an_id('script', i) AS id, pg_temp.an_id('studio', i % :agents * 5 + g) AS studio_id,
        'The Story No. ' || i AS title, (CAST(:genres AS text[]))[g + 1] AS genre, g, status,
        CASE WHEN status IN ('selected', 'rejected') THEN p END AS p,
        'agent-' || i % :agents AS agent_name
    FROM generate_series(0, :scripts - 1) AS i
    CROSS JOIN LATERAL (SELECT i % 5 AS g, i / 5 % :periods AS p) AS place
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN i < :series THEN 'selected'
            WHEN i >= :scripts - greatest(1, :scripts / 200) THEN 'submitted'
            WHEN i >= :scripts - greatest(2, :scripts / 100) THEN 'draft'
            WHEN i >= :scripts - greatest(3, :scripts / 50) THEN 'voting'
            ELSE 'rejected'
        END AS status
    ) AS state
    """,
    "ANALYZE filed",
    "ANALYZE past",
)

_VOTES = (
    """
    INSERT INTO voting_periods (id, period_type, starts_at, ends_at, is_processed, processed_at, told_at, outcome)
    SELECT id, 'agent_voting', starts_at, ends_at, true, ends_at + interval '1 second', ends_at + interval '2 seconds',
        '{}'
    FROM past
    """,
    """
    INSERT INTO voting_periods (id, period_type, starts_at, ends_at, is_active)
    VALUES (pg_temp.an_id('period', -1), 'agent_voting', now() - interval '1 hour', now() + interval '1 hour', true),
        (pg_temp.an_id('period', -2), 'agent_voting', now() + interval '1 hour', now() + interval '3 hours', false)
    """,
    """
    INSERT INTO scripts (id, studio_id, title, logline, genre, script_data, pilot_status, voting_period_id,
        submitted_at)
    SELECT filed.id, studio_id, title, 'A story.', genre, CAST(:document AS jsonb),
        CASE status WHEN 'selected' THEN 'rejected' ELSE status END,
        CASE status WHEN 'voting' THEN pg_temp.an_id('period', -1) ELSE past.id END,
        CASE WHEN status <> 'draft' THEN coalesce(past.starts_at, now()) - interval '1 minute' END
    FROM filed LEFT JOIN past USING (p)
    """,
    # Five voted for a winner, two for one that lost.
    """
    INSERT INTO script_votes (script_id, agent_name, value, cast_at)
    SELECT filed.id, 'voter-' || v, 1, coalesce(past.starts_at, now() - interval '1 hour') + v * interval '1 minute'
    FROM filed LEFT JOIN past USING (p)
    CROSS JOIN LATERAL generate_series(1, CASE status WHEN 'selected' THEN 5 ELSE 2 END) AS v
    WHERE status IN ('selected', 'rejected', 'voting')
    """,
)

_SERIES = (
    """
    CREATE TEMP TABLE made ON COMMIT DROP AS
    SELECT i AS s, pg_temp.an_id('series', i) AS id, filed.id AS script_id, studio_id, title,
        'the-story-no-' || i AS slug, genre, past.ends_at + interval '1 second' AS at, past.p,
        CASE WHEN i < :finished THEN 9 ELSE (i - :finished) % 5 END AS step
    FROM filed JOIN past USING (p) WHERE status = 'selected'
    """,
    "ANALYZE made",
    """
    INSERT INTO limited_series (id, script_id, studio_id, slug, title, logline, genre, medium, series_bible,
        poster_spec, poster_key, created_at)
    SELECT id, script_id, studio_id, slug, title, 'A story.', genre, 'video',
        CAST(:document AS jsonb) -> 'series_bible', CAST(:document AS jsonb) -> 'poster_spec',
        'series/' || id || '/poster-' || left(pg_temp.a_hash('poster', s), 12) || '.png', at
    FROM made
    """,
    """
    UPDATE scripts SET pilot_status = 'selected', series_id = made.id FROM made WHERE made.script_id = scripts.id
    """,
    """
    UPDATE voting_periods SET outcome = jsonb_build_object(
        'period_id', past.id, 'starts_at', past.starts_at, 'ends_at', past.ends_at, 'closed_early_reason', NULL,
        'rules', CAST(:rules AS jsonb), 'votes', counted.votes, 'winners', counted.winners, 'ranking', counted.ranking,
        'scopes_without_winner', '[]'::jsonb, 'reason', NULL
    )
    FROM past
    JOIN (
        SELECT p, sum(votes) AS votes,
            jsonb_agg(jsonb_build_object('script_id', id, 'title', title, 'genre', genre, 'agent_name', agent_name,
                'series_id', series_id) ORDER BY genre) FILTER (WHERE status = 'selected') AS winners,
            jsonb_agg(jsonb_build_object('scope', genre, 'rank', rank, 'script_id', id, 'title', title, 'genre', genre,
                'agent_name', agent_name, 'score', votes, 'upvotes', votes, 'downvotes', 0, 'fate', status)
                ORDER BY genre, rank) AS ranking
        FROM (
            SELECT p, id, title, genre, agent_name, status, pg_temp.an_id('series', i) AS series_id,
                CASE status WHEN 'selected' THEN 5 ELSE 2 END AS votes,
                row_number() OVER (PARTITION BY p, g ORDER BY status = 'selected' DESC, id::text) AS rank
            FROM filed WHERE p IS NOT NULL
        ) AS ranked
        GROUP BY p
    ) AS counted USING (p)
    WHERE voting_periods.id = past.id
    """,
    # `done` is whether all variants of the episode are out.
    """
    CREATE TEMP TABLE episode ON COMMIT DROP AS
    SELECT s * :episodes + number - 1 AS e, pg_temp.an_id('episode', s * :episodes + number - 1) AS id, s,
        id AS series_id, number, slug || '-' || left(replace(id::text, '-', ''), 8) || '-e0' || number AS partition_key,
        at, step,
        CASE number WHEN 1 THEN :variants ELSE 1 END AS variants,
        step = 9 OR step = 3 AND number <= 3 OR step = 2 AND number = 1 AS done
    FROM made CROSS JOIN generate_series(1, :episodes) AS number
    """,
    "ANALYZE episode",
    """
    INSERT INTO episodes (id, series_id, episode_number, title, partition_key)
    SELECT id, series_id, number, CASE number WHEN 1 THEN 'Pilot' ELSE 'Episode ' || number END, partition_key
    FROM episode
    """,
)

_MEDIA = (
    """
    CREATE TEMP TABLE shot ON COMMIT DROP AS
    SELECT e * 20 + place AS n, pg_temp.an_id('shot', e * 20 + place) AS id, episode.id AS episode_id, variants, at,
        spec, place
    FROM episode
    CROSS JOIN LATERAL jsonb_array_elements(CAST(:shots AS jsonb)) WITH ORDINALITY AS shot (spec, place)
    WHERE done
    """,
    "ANALYZE shot",
    """
    INSERT INTO shots (id, episode_id, shot_number, prompt, audio, gen_clip_seconds, duration_seconds,
        edit_extend_strategy)
    SELECT id, episode_id, place, spec -> 'prompt', spec -> 'audio', 5, 6, 'slow_2d_pan' FROM shot
    """,
    """
    INSERT INTO voiceovers (shot_id, take_number, media_key, sha256, bytes, duration_seconds, words)
    SELECT id, 1, 'voiceovers/' || id || '/1-' || left(hash, 12) || '.wav', hash, 500000, 5.5,
        '[{"text": "Gull", "start": 0.1, "end": 0.4}]'
    FROM shot CROSS JOIN LATERAL (SELECT pg_temp.a_hash('voiceover', n) AS hash) AS content
    """,
    """
    INSERT INTO scores (episode_id, take_number, media_key, sha256, bytes, duration_seconds)
    SELECT id, 1, 'music/' || id || '/1-' || left(hash, 12) || '.wav', hash, 9000000, 45
    FROM episode CROSS JOIN LATERAL (SELECT pg_temp.a_hash('score', e) AS hash) AS content
    WHERE done
    """,
)

# A call to a camera for each take: this studio pays for all of them.
_CALLS = (
    """
    CREATE TEMP TABLE take ON COMMIT DROP AS
    SELECT n * 4 + v AS n, shot.id AS shot_id, episode_id, v, pg_temp.a_hash('take', n * 4 + v) AS hash,
        pg_temp.an_id('call', n * 4 + v) AS call_id, at + interval '5 minutes' AS at
    FROM shot CROSS JOIN LATERAL generate_series(1, variants) AS v
    """,
    """
    INSERT INTO provider_jobs (id, fingerprint, engine, model, operation, state, external_id, cost_usd, request,
        process_uuid, claimed_by, claimed_at, left_at, submitted_at, finished_at, account, episode_id, subject_id,
        variant_number, take_number)
    SELECT call_id, hash, 'camera', 'reel-1', 'film', 'ingested', 'job-' || n, 0.25, '{"seconds": 5}',
        'run-' || episode_id, 'run-' || episode_id, at, at, at, at + interval '30 seconds', 'api.example/1a2b',
        episode_id, shot_id, v, 1
    FROM take
    """,
    """
    INSERT INTO takes (shot_id, variant_number, take_number, media_key, sha256, bytes, duration_seconds, probe,
        provider_job_id, sound_key, sound_sha256, sound_bytes, sound_seconds)
    SELECT shot_id, v, 1, 'takes/' || shot_id || '/' || v || '-1-' || left(hash, 12) || '.mp4', hash, 3000000, 5, '{}',
        call_id,
        CASE WHEN heard THEN 'takes/' || shot_id || '/' || v || '-1-' || left(hash, 12) || '.flac' END,
        CASE WHEN heard THEN hash END, CASE WHEN heard THEN 400000 END, CASE WHEN heard THEN 5 END
    FROM take CROSS JOIN LATERAL (SELECT n % 4 = 0 AS heard) AS sound
    """,
    "INSERT INTO engine_accounts (account) VALUES ('api.example/1a2b')",
)

_AUDIENCE = (
    """
    INSERT INTO clip_variants (id, episode_id, variant_number, video_key, sha256, bytes, duration_seconds, captions_key,
        thumbnail_key, ingredients, delivery, is_selected)
    SELECT pg_temp.an_id('variant', e * 4 + v), id, v, stem || '.mp4', hash, 40000000, 42, stem || '.vtt',
        stem || '.jpg', hash, '{"rules": []}', v = CASE WHEN number > 1 THEN 1 WHEN step <> 2 THEN 2 END IS TRUE
    FROM episode CROSS JOIN LATERAL generate_series(1, variants) AS v
    CROSS JOIN LATERAL (SELECT pg_temp.a_hash('variant', e * 4 + v) AS hash) AS content
    CROSS JOIN LATERAL (SELECT 'episodes/' || id || '/variant-' || v || '-' || left(hash, 12) AS stem) AS stem
    WHERE done
    """,
    # The second vote of a pilot: two hours from its last variant on, over since, or open where the series is at it.
    """
    CREATE TEMP TABLE audience ON COMMIT DROP AS
    SELECT pg_temp.an_id('clip vote', e) AS id, e, episode.id AS episode_id, partition_key, variants,
        step = 2 AS is_open, starts_at, starts_at + interval '2 hours' AS ends_at
    FROM episode
    CROSS JOIN LATERAL (
        SELECT CASE step WHEN 2 THEN now() - interval '1 hour' ELSE least(at, now() - interval '3 hours') END
            AS starts_at
    ) AS t
    WHERE number = 1 AND done
    """,
    """
    INSERT INTO voting_periods (id, period_type, episode_id, starts_at, ends_at, is_active, is_processed, processed_at,
        told_at, outcome)
    SELECT id, 'clip_voting', episode_id, starts_at, ends_at, is_open, NOT is_open,
        CASE WHEN NOT is_open THEN ends_at + interval '1 second' END,
        CASE WHEN NOT is_open THEN ends_at + interval '2 seconds' END,
        CASE WHEN NOT is_open THEN jsonb_build_object(
            'period_type', 'clip_voting', 'period_id', id, 'episode_id', episode_id,
            'partition_key', partition_key, 'starts_at', starts_at, 'ends_at', ends_at,
            'closed_early_reason', NULL, 'votes', 3, 'selected', standing -> 0, 'ranking', standing
        ) END
    FROM audience
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(jsonb_build_object('variant_id', pg_temp.an_id('variant', e * 4 + v), 'variant_number', v,
            'votes', CASE v WHEN 2 THEN 2 WHEN 3 THEN 1 ELSE 0 END)
            ORDER BY array_position(ARRAY[2, 3, 1, 4], v)) AS standing
        FROM generate_series(1, variants) AS v
    ) AS counted
    """,
    """
    INSERT INTO clip_votes (clip_variant_id, episode_id, voter_key, cast_at)
    SELECT pg_temp.an_id('variant', e * 4 + CASE k WHEN 3 THEN 3 ELSE 2 END), episode_id, 'agent:voter-' || k,
        starts_at + k * interval '1 minute'
    FROM audience CROSS JOIN generate_series(1, 3) AS k
    """,
)

# Of the series in work: 0 waits, 1 is filmed, 2 has its second vote open and its second episode failed once, 3 rests
# between two steps of its fourth episode, 4 has a call under way.
_WORK = (
    """
    INSERT INTO production_jobs (id, episode_id, job_type, priority, process_uuid, attempt_count, available_at,
        claimed_at, heartbeat_at, completed_at, last_error)
    SELECT pg_temp.an_id('job', e), id, CASE number WHEN 1 THEN 'pilot_variants' ELSE 'single_episode' END,
        CASE number WHEN 1 THEN 100 ELSE 50 END,
        CASE WHEN held OR rests THEN 'run-' || e END, CASE WHEN failed THEN 1 ELSE 0 END,
        CASE WHEN done THEN at WHEN failed THEN clock_timestamp() + interval '1 minute' ELSE clock_timestamp() END,
        CASE WHEN held OR rests THEN clock_timestamp() - interval '1 minute' END,
        CASE WHEN held THEN clock_timestamp() END,
        CASE WHEN done THEN at + interval '10 minutes' END, CASE WHEN failed THEN 'the voice broke' END
    FROM episode
    CROSS JOIN LATERAL (
        SELECT step IN (1, 4) AND number = 1 AS held, step = 3 AND number = 4 AS rests,
            step = 2 AND number = 2 AS failed
    ) AS work
    """,
    """
    INSERT INTO provider_jobs (fingerprint, engine, model, operation, state, external_id, reserved_usd, request,
        process_uuid, claimed_by, left_at, submitted_at, account, episode_id)
    SELECT pg_temp.a_hash('under way', e), 'camera', 'reel-1', 'film', 'running', 'job-under-way-' || e, 0.25, '{}',
        'run-' || e, 'run-' || e, clock_timestamp(), clock_timestamp(), 'api.example/1a2b', id
    FROM episode WHERE step = 4 AND number = 1
    """,
)

_PAST = (
    """
    INSERT INTO audit (at, by, action, subject, what, before, after)
    SELECT now() - n * interval '1 day', 'operator', 'repair', 'scripts ' || n, 'made the series', '{}', '{}'
    FROM generate_series(1, :periods / 10 + 1) AS n
    """,
    """
    WITH over AS (
        INSERT INTO incidents (subject, severity, title, body, opened_at, closed_at)
        SELECT 'check:jobs_have_live_owners', 'error', 'A run died', 'A job had no owner.',
            now() - n * interval '1 day', now() - n * interval '1 day' + interval '1 minute'
        FROM generate_series(1, :periods / 10 + 1) AS n RETURNING id, opened_at, closed_at
    )
    INSERT INTO alerts (incident_id, kind, channel, due_at, attempts, sent_at)
    SELECT id, kind, 'a1b2c3d4', at, 1, at
    FROM over CROSS JOIN LATERAL (VALUES ('opened', opened_at), ('closed', closed_at)) AS told (kind, at)
    """,
    """
    INSERT INTO sweeps (name, began_at, completed_at)
    VALUES ('objects', now() - interval '1 hour', now()), ('partition_keys', now(), now())
    """,
    "ANALYZE",
)
