"""The tables, as SQLAlchemy Core sees them.

Here: columns, keys and constraints, the contract of the design's section 4. Not here: views (they are
SQL, in the migrations), statements (beside the transactions that run them).

No column stores what can be derived: a status is either a fact that somebody decided (a script was
selected) or a view over the media rows.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID, ExcludeConstraint

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> sa.Column[object]:
    return sa.Column("id", UUID(as_uuid=True), primary_key=True, server_default=sa.func.gen_random_uuid())


def _time(name: str, *, nullable: bool = True, now: bool = False) -> sa.Column[object]:
    default = sa.func.now() if now else None
    return sa.Column(name, sa.TIMESTAMP(timezone=True), nullable=nullable, server_default=default)


def _ref(name: str, target: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, UUID(as_uuid=True), sa.ForeignKey(f"{target}.id"), nullable=nullable)


def _one_of(column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


def _bytewise(table: str, column: str, *, nullable: bool = False) -> sa.Index:
    """Keys in the order in which S3 lists them, which is that of their bytes, whatever the locale of the database."""
    return sa.Index(
        f"ix_{table}_{column}_bytewise",
        column,
        # Said as an operator class, which stands in the same place: Alembic could not compare an expression.
        postgresql_ops={column: 'COLLATE "C"'},
        postgresql_where=sa.text(f"{column} IS NOT NULL") if nullable else None,
    )


studios = sa.Table(
    "studios",
    metadata,
    _id(),
    sa.Column("slug", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("genre", sa.Text, nullable=False),
    sa.Column("agent_name", sa.Text, nullable=False),
)

voting_periods = sa.Table(
    "voting_periods",
    metadata,
    _id(),
    sa.Column("period_type", sa.Text, nullable=False),
    _time("starts_at", nullable=False),
    _time("ends_at", nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("is_processed", sa.Boolean, nullable=False, server_default=sa.false()),
    _time("processed_at"),
    sa.Column("closed_early_reason", sa.Text),
    sa.Column("outcome", JSONB),
    # When Dagster was told of the outcome. Whoever closes may die before that, or be a command that knows no Dagster.
    _time("told_at"),
    # The pilot whose variants a clip vote is about.
    sa.Column("episode_id", UUID(as_uuid=True), sa.ForeignKey("episodes.id", use_alter=True)),
    _one_of("period_type", "agent_voting", "clip_voting"),
    sa.CheckConstraint("(period_type = 'clip_voting') = (episode_id IS NOT NULL)", name="clip_voting_has_episode"),
    sa.CheckConstraint("ends_at > starts_at", name="ends_after_start"),
    # The incident: a period of next week was flipped to processed by hand, and nothing looked at it again.
    # Written with IS TRUE: a CHECK that evaluates to NULL passes, so a missing processed_at would slip through.
    sa.CheckConstraint(
        "NOT is_processed OR (processed_at >= ends_at) IS TRUE OR closed_early_reason IS NOT NULL",
        name="processed_when_over",
    ),
    sa.CheckConstraint("NOT is_processed OR outcome IS NOT NULL", name="processed_with_outcome"),
    sa.CheckConstraint("NOT (is_active AND is_processed)", name="active_or_processed"),
    sa.CheckConstraint("length(trim(closed_early_reason)) > 0", name="closed_early_reason"),
    ExcludeConstraint(
        (sa.text("tstzrange(starts_at, ends_at)"), "&&"),
        using="gist",
        where=sa.text("period_type = 'agent_voting'"),
        name="ex_voting_periods_no_overlap",
    ),
    # A pilot has one second vote: two processes that see its fourth variant at once open one period.
    sa.Index("uq_voting_periods_episode_id", "episode_id", unique=True),
    sa.Index("ix_voting_periods_ends_at", "ends_at", postgresql_where=sa.text("NOT is_processed")),
    sa.Index("ix_voting_periods_newest", "period_type", "ends_at", postgresql_where=sa.text("is_processed")),
    sa.Index("ix_voting_periods_untold", "processed_at", postgresql_where=sa.text("is_processed AND told_at IS NULL")),
    # Of what must not be. It stays empty, so that a look over all of history reads nothing.
    sa.Index(
        "ix_voting_periods_processed_early",
        "processed_at",
        postgresql_where=sa.text(
            "is_processed AND (processed_at >= ends_at) IS NOT TRUE AND closed_early_reason IS NULL"
        ),
    ),
)

limited_series = sa.Table(
    "limited_series",
    metadata,
    _id(),
    sa.Column(
        "script_id",
        UUID(as_uuid=True),
        sa.ForeignKey("scripts.id", use_alter=True, name="fk_limited_series_script_id"),
        nullable=False,
        unique=True,
    ),
    _ref("studio_id", "studios"),
    sa.Column("slug", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("logline", sa.Text, nullable=False),
    sa.Column("genre", sa.Text, nullable=False),
    sa.Column("medium", sa.Text, nullable=False),
    sa.Column("series_bible", JSONB, nullable=False),
    sa.Column("poster_spec", JSONB, nullable=False),
    sa.Column("poster_key", sa.Text),
    _time("created_at", nullable=False, now=True),
    _one_of("medium", "video", "audio"),
    # How many variants an episode is to have, without reading the bible beside it.
    sa.Index("ix_limited_series_id_medium", "id", "medium"),
    _bytewise("limited_series", "poster_key", nullable=True),
)

scripts = sa.Table(
    "scripts",
    metadata,
    _id(),
    _ref("studio_id", "studios"),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("logline", sa.Text, nullable=False),
    sa.Column("genre", sa.Text, nullable=False),
    sa.Column("medium", sa.Text, nullable=False, server_default="video"),
    sa.Column("script_data", JSONB, nullable=False),
    sa.Column("pilot_status", sa.Text, nullable=False, server_default="draft"),
    _ref("voting_period_id", "voting_periods", nullable=True),
    _ref("series_id", "limited_series", nullable=True),
    _time("submitted_at"),
    _one_of("medium", "video", "audio"),
    _one_of("pilot_status", "draft", "submitted", "voting", "selected", "rejected"),
    # The rule that gave the project its name: deferred to nothing, so the series must be written first.
    sa.CheckConstraint("pilot_status <> 'selected' OR series_id IS NOT NULL", name="selected_has_series"),
    sa.CheckConstraint("pilot_status <> 'voting' OR voting_period_id IS NOT NULL", name="voting_has_period"),
    sa.CheckConstraint("pilot_status = 'draft' OR submitted_at IS NOT NULL", name="submitted_has_time"),
    sa.Index("ix_scripts_pilot_status", "pilot_status"),
    sa.Index("ix_scripts_voting_period_id", "voting_period_id"),
)

script_votes = sa.Table(
    "script_votes",
    metadata,
    _ref("script_id", "scripts"),
    sa.Column("agent_name", sa.Text, nullable=False),
    sa.Column("value", sa.SmallInteger, nullable=False),
    _time("cast_at", nullable=False, now=True),
    sa.PrimaryKeyConstraint("script_id", "agent_name"),
    sa.CheckConstraint("value IN (-1, 1)", name="value"),
)

voting_settings = sa.Table(
    "voting_settings",
    metadata,
    # One row: the settings that must survive a restart. The old system kept them in process memory, per pod.
    sa.Column("only_row", sa.Boolean, primary_key=True, server_default=sa.true()),
    sa.Column("cadence", sa.Text, nullable=False, server_default="weekly"),
    sa.Column("winner_scope", sa.Text, nullable=False, server_default="genre"),
    sa.Column("min_votes", sa.Integer, nullable=False, server_default="1"),
    sa.Column("min_score", sa.Integer, nullable=False, server_default="1"),
    sa.Column("voting_minutes", sa.Integer, nullable=False, server_default="1440"),
    sa.Column("clip_voting_minutes", sa.Integer, nullable=False, server_default="2880"),
    sa.Column("start_weekday", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("start_hour_utc", sa.SmallInteger, nullable=False, server_default="0"),
    sa.CheckConstraint("only_row", name="only_row"),
    _one_of("cadence", "weekly", "daily", "immediate"),
    _one_of("winner_scope", "genre", "period"),
    sa.CheckConstraint("min_votes >= 1", name="min_votes"),
    sa.CheckConstraint("voting_minutes BETWEEN 1 AND 43200", name="voting_minutes"),
    sa.CheckConstraint("clip_voting_minutes BETWEEN 1 AND 20160", name="clip_voting_minutes"),
    sa.CheckConstraint("start_weekday BETWEEN 0 AND 6", name="start_weekday"),
    sa.CheckConstraint("start_hour_utc BETWEEN 0 AND 23", name="start_hour_utc"),
)

episodes = sa.Table(
    "episodes",
    metadata,
    _id(),
    _ref("series_id", "limited_series"),
    sa.Column("episode_number", sa.SmallInteger, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("partition_key", sa.Text, nullable=False, unique=True),
    sa.UniqueConstraint("series_id", "episode_number"),
    sa.CheckConstraint("episode_number BETWEEN 1 AND 5", name="episode_number"),
    sa.CheckConstraint("partition_key ~ '^[a-z0-9][a-z0-9_-]{0,62}$'", name="partition_key"),
    # Empty as long as the constraint is there: to try the rule on every key takes seconds.
    sa.Index(
        "ix_episodes_against_the_rule",
        "partition_key",
        postgresql_where=sa.text("partition_key !~ '^[a-z0-9][a-z0-9_-]{0,62}$'"),
    ),
)

shots = sa.Table(
    "shots",
    metadata,
    _id(),
    _ref("episode_id", "episodes"),
    sa.Column("shot_number", sa.SmallInteger, nullable=False),
    sa.Column("prompt", JSONB, nullable=False),
    sa.Column("audio", JSONB, nullable=False),
    sa.Column("gen_clip_seconds", sa.Float, nullable=False),
    sa.Column("duration_seconds", sa.Float, nullable=False),
    sa.Column("edit_extend_strategy", sa.Text, nullable=False),
    # What films the shot, where its script says so. Engines come and go, so their names are checked at the door only.
    sa.Column("kind", sa.Text),
    sa.Column("engine", sa.Text),
    sa.Column("transition", sa.Text, nullable=False, server_default="cut"),
    sa.UniqueConstraint("episode_id", "shot_number"),
    sa.CheckConstraint("shot_number >= 1", name="shot_number"),
    sa.CheckConstraint("gen_clip_seconds > 0 AND duration_seconds > 0", name="lengths"),
    _one_of("edit_extend_strategy", "none", "hold_last_frame", "slow_2d_pan", "loop_subtle_motion", "speed_ramp"),
    _one_of("kind", "generated", "talking_head", "stock", "animatic"),
    _one_of("transition", "cut", "crossfade", "fade_through_black"),
)


def _media(prefix: str = "media_key") -> tuple[sa.Column[object], ...]:
    """Key, sha256 and size: written together after the upload was verified, so a row is the proof of the media."""
    return (
        sa.Column(prefix, sa.Text, nullable=False, unique=True),
        sa.Column("sha256", sa.CHAR(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("duration_seconds", sa.Float, nullable=False),
    )


def _media_checks() -> tuple[sa.CheckConstraint, ...]:
    return (
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
        sa.CheckConstraint("bytes > 0", name="bytes"),
        sa.CheckConstraint("duration_seconds > 0", name="duration_seconds"),
    )


provider_jobs = sa.Table(
    "provider_jobs",
    metadata,
    _id(),
    sa.Column("fingerprint", sa.CHAR(64), nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("external_id", sa.Text),
    sa.Column("cost_usd", sa.Numeric(12, 6), nullable=False, server_default="0"),
    sa.Column("request", JSONB, nullable=False),
    sa.Column("error_class", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("process_uuid", sa.Text, nullable=False),
    _time("submitted_at"),
    _time("finished_at"),
    sa.Column("model", sa.Text, nullable=False, server_default=""),
    # Whose limits hold at the provider; none for an engine of this machine.
    sa.Column("account", sa.Text),
    _ref("episode_id", "episodes", nullable=True),
    # The shot, or the episode for its script and its music. No foreign key: a shot may go, what was paid for it stays.
    sa.Column("subject_id", UUID(as_uuid=True)),
    sa.Column("variant_number", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("take_number", sa.SmallInteger, nullable=False, server_default="1"),
    sa.Column("reserved_usd", sa.Numeric(12, 6), nullable=False, server_default="0"),
    _time("claimed_at", nullable=False, now=True),
    # The run that the money is counted to: `process_uuid` passes on when another one goes on with the call.
    sa.Column("claimed_by", sa.Text),
    _time("left_at"),
    # What the engine made, with the key of its object; never an address, which may be signed.
    sa.Column("result", JSONB),
    _one_of("operation", "write", "speak", "film", "compose"),
    _one_of(
        "state",
        "claimed", "submitting", "submitted", "running", "succeeded", "ingested",
        "failed", "ambiguous", "canceled", "expired",
    ),
    sa.CheckConstraint("cost_usd >= 0", name="cost_usd"),
    sa.CheckConstraint("reserved_usd >= 0", name="reserved_usd"),
    # At most one live row per fingerprint: the claim that makes a paid call happen at most once.
    sa.Index(
        "uq_provider_jobs_live_fingerprint",
        "fingerprint",
        unique=True,
        postgresql_where=sa.text("state NOT IN ('failed', 'canceled', 'expired')"),
    ),
    sa.Index("ix_provider_jobs_state", "state"),
    # What became of the same request before.
    sa.Index("ix_provider_jobs_fingerprint", "fingerprint", "claimed_at"),
    # The money of a series, of a day, of a run.
    sa.Index("ix_provider_jobs_episode_id", "episode_id"),
    sa.Index("ix_provider_jobs_claimed_at", "claimed_at"),
    sa.Index("ix_provider_jobs_claimed_by", "claimed_by"),
    # All the money there ever was, without reading the requests beside it.
    sa.Index(
        "ix_provider_jobs_paid",
        "cost_usd",
        "reserved_usd",
        postgresql_where=sa.text("cost_usd + reserved_usd > 0"),
    ),
    sa.Index("ix_provider_jobs_reserved", "reserved_usd", postgresql_where=sa.text("reserved_usd > 0")),
    # Jobs at a provider: those in flight, and those of the last days.
    sa.Index("ix_provider_jobs_account_left_at", "account", "left_at"),
    sa.Index("ix_provider_jobs_account_submitted_at", "account", "submitted_at"),
)  # fmt: skip

engine_accounts = sa.Table(
    "engine_accounts",
    metadata,
    # One row per account at a provider: its lock is what makes limits hold over every process.
    sa.Column("account", sa.Text, primary_key=True),
    _time("next_start_at"),
    _time("blocked_until"),
    sa.Column("blocked_reason", sa.Text),
    # How often in a row the circuit opened: each time for twice as long. 0 is closed.
    sa.Column("circuit_opened", sa.Integer, nullable=False, server_default="0"),
    _time("opened_at"),
    sa.Column("faults_in_a_row", sa.Integer, nullable=False, server_default="0"),
    _time("probing_until"),
    sa.CheckConstraint("circuit_opened >= 0 AND faults_in_a_row >= 0", name="counts"),
)

engine_queues = sa.Table(
    "engine_queues",
    metadata,
    # A row per process that asks an account for places, until it has not asked for a while.
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("process_uuid", sa.Text, primary_key=True),
    _time("asked_at", nullable=False),
)

provider_events = sa.Table(
    "provider_events",
    metadata,
    _id(),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("external_id", sa.Text, nullable=False),
    # No foreign key: an event may name nonsense.
    sa.Column("call_id", UUID(as_uuid=True)),
    sa.Column("status", sa.Text, nullable=False),
    _time("received_at", nullable=False, now=True),
    sa.UniqueConstraint("provider", "event_id"),
    sa.Index("ix_provider_events_call_id", "call_id"),
    sa.Index("ix_provider_events_external_id", "external_id"),
    sa.Index("ix_provider_events_received_at", "received_at"),
)

voiceovers = sa.Table(
    "voiceovers",
    metadata,
    _id(),
    _ref("shot_id", "shots"),
    sa.Column("take_number", sa.SmallInteger, nullable=False),
    *_media(),
    sa.Column("words", JSONB, nullable=False),
    _ref("provider_job_id", "provider_jobs", nullable=True),
    _time("recorded_at", nullable=False, now=True),
    sa.UniqueConstraint("shot_id", "take_number"),
    *_media_checks(),
    sa.Index("ix_voiceovers_provider_job_id", "provider_job_id"),
    _bytewise("voiceovers", "media_key"),
)

takes = sa.Table(
    "takes",
    metadata,
    _id(),
    _ref("shot_id", "shots"),
    sa.Column("variant_number", sa.SmallInteger, nullable=False),
    sa.Column("take_number", sa.SmallInteger, nullable=False),
    *_media(),
    sa.Column("probe", JSONB, nullable=False),
    _ref("provider_job_id", "provider_jobs", nullable=True),
    sa.Column("is_current", sa.Boolean, nullable=False, server_default=sa.true()),
    # What was heard with the clip: takes themselves are silent, so that they can be joined by copy.
    sa.Column("sound_key", sa.Text, unique=True),
    sa.Column("sound_sha256", sa.CHAR(64)),
    sa.Column("sound_bytes", sa.BigInteger),
    sa.Column("sound_seconds", sa.Float),
    # Since when the one before is superseded.
    _time("recorded_at", nullable=False, now=True),
    sa.UniqueConstraint("shot_id", "variant_number", "take_number"),
    sa.CheckConstraint(
        "num_nulls(sound_key, sound_sha256, sound_bytes, sound_seconds) IN (0, 4)", name="sound_is_whole"
    ),
    sa.CheckConstraint("variant_number BETWEEN 1 AND 4", name="variant_number"),
    *_media_checks(),
    sa.Index("uq_takes_current", "shot_id", "variant_number", unique=True, postgresql_where=sa.text("is_current")),
    sa.Index("ix_takes_superseded", "id", postgresql_where=sa.text("NOT is_current")),
    sa.Index("ix_takes_provider_job_id", "provider_job_id"),
    _bytewise("takes", "media_key"),
    _bytewise("takes", "sound_key", nullable=True),
)

scores = sa.Table(
    "scores",
    metadata,
    _id(),
    _ref("episode_id", "episodes"),
    sa.Column("take_number", sa.SmallInteger, nullable=False),
    *_media(),
    _ref("provider_job_id", "provider_jobs", nullable=True),
    _time("recorded_at", nullable=False, now=True),
    sa.UniqueConstraint("episode_id", "take_number"),
    *_media_checks(),
    sa.Index("ix_scores_provider_job_id", "provider_job_id"),
    _bytewise("scores", "media_key"),
)

spent_numbers = sa.Table(
    "spent_numbers",
    metadata,
    # The highest number of a take, of a voiceover (variant 0) or of music (of the episode, variant 0) whose row was
    # pruned. A number that came again would name two different things in keys, in calls and in the audit.
    sa.Column("subject_id", UUID(as_uuid=True), nullable=False),
    sa.Column("variant_number", sa.SmallInteger, nullable=False),
    sa.Column("take_number", sa.SmallInteger, nullable=False),
    sa.PrimaryKeyConstraint("subject_id", "variant_number"),
)

departures = sa.Table(
    "departures",
    metadata,
    # Objects whose row was pruned and that may still lie in the store: written with the removal of the row, gone with
    # the object. Without it, what a prune was killed over would be an object of nobody.
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    _ref("episode_id", "episodes"),
    _time("since", nullable=False, now=True),
)

clip_variants = sa.Table(
    "clip_variants",
    metadata,
    _id(),
    _ref("episode_id", "episodes"),
    sa.Column("variant_number", sa.SmallInteger, nullable=False),
    *_media("video_key"),
    sa.Column("captions_key", sa.Text, nullable=False),
    sa.Column("thumbnail_key", sa.Text, nullable=False),
    # Hash of the takes, voiceovers and profile that went in: a cut is stale when its ingredients changed since.
    # Empty where they are not known, so that a cut recorded by another tool is made anew rather than trusted.
    sa.Column("ingredients", sa.Text, nullable=False, server_default=""),
    # What the delivery gate found, rule by rule. None for a cut that another tool recorded.
    sa.Column("delivery", JSONB),
    # When this cut took the place of the one before.
    _time("published_at", nullable=False, now=True),
    sa.Column("is_selected", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("episode_id", "variant_number"),
    # What a vote refers to: a variant together with its episode.
    sa.UniqueConstraint("id", "episode_id"),
    sa.CheckConstraint("variant_number BETWEEN 1 AND 4", name="variant_number"),
    *_media_checks(),
    sa.Index("uq_clip_variants_selected", "episode_id", unique=True, postgresql_where=sa.text("is_selected")),
    _bytewise("clip_variants", "video_key"),
    _bytewise("clip_variants", "captions_key"),
    _bytewise("clip_variants", "thumbnail_key"),
)

clip_votes = sa.Table(
    "clip_votes",
    metadata,
    sa.Column("clip_variant_id", UUID(as_uuid=True), nullable=False),
    # Said twice, so that the database itself keeps a voter to one variant of an episode.
    sa.Column("episode_id", UUID(as_uuid=True), nullable=False),
    sa.Column("voter_key", sa.Text, nullable=False),
    _time("cast_at", nullable=False, now=True),
    sa.PrimaryKeyConstraint("clip_variant_id", "voter_key"),
    sa.UniqueConstraint("episode_id", "voter_key"),
    sa.ForeignKeyConstraint(
        ["clip_variant_id", "episode_id"],
        ["clip_variants.id", "clip_variants.episode_id"],
        name="fk_clip_votes_variant",
    ),
)

production_jobs = sa.Table(
    "production_jobs",
    metadata,
    _id(),
    _ref("episode_id", "episodes"),
    sa.Column("job_type", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("process_uuid", sa.Text),
    sa.Column("attempt_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_attempts", sa.Integer, nullable=False, server_default="3"),
    _time("available_at", nullable=False, now=True),
    _time("claimed_at"),
    _time("heartbeat_at"),
    _time("completed_at"),
    sa.Column("last_error", sa.Text),
    sa.UniqueConstraint("episode_id", "job_type"),
    _one_of("job_type", "pilot_variants", "single_episode"),
    sa.CheckConstraint("attempt_count >= 0 AND max_attempts >= 1", name="attempts"),
    # A heartbeat without an owner, or an owner that never claimed, is a state that no code writes.
    sa.CheckConstraint("process_uuid IS NOT NULL OR heartbeat_at IS NULL", name="heartbeat_has_owner"),
    sa.CheckConstraint("(process_uuid IS NULL) = (claimed_at IS NULL)", name="claimed_has_owner"),
    sa.Index(
        "ix_production_jobs_waiting", "priority", "available_at", postgresql_where=sa.text("completed_at IS NULL")
    ),
    # Few jobs are owned at any time, and a sensor asks for them each second.
    sa.Index("ix_production_jobs_owned", "process_uuid", postgresql_where=sa.text("process_uuid IS NOT NULL")),
)

audit = sa.Table(
    "audit",
    metadata,
    _id(),
    _time("at", nullable=False, now=True),
    # Who: the name of an account of the machine, or of the sensor that did it.
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    # The row that it was about, as text: it may be of any table, and gone.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("before", JSONB),
    sa.Column("after", JSONB),
    sa.Index("ix_audit_at", "at"),
    sa.Index("ix_audit_subject", "subject"),
)

incidents = sa.Table(
    "incidents",
    metadata,
    _id(),
    # What it is about: `check:NAME`, `run:JOB:PARTITION`.
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("remedy", sa.Text, nullable=False, server_default=""),
    # A path of the Dagster UI, without its host.
    sa.Column("path", sa.Text, nullable=False, server_default=""),
    _time("opened_at", nullable=False, now=True),
    _time("closed_at"),
    _one_of("severity", "error", "warning"),
    # One incident is open per subject: two that look at once tell of it once.
    sa.Index("uq_incidents_open", "subject", unique=True, postgresql_where=sa.text("closed_at IS NULL")),
    sa.Index("ix_incidents_closed_at", "closed_at", postgresql_where=sa.text("closed_at IS NOT NULL")),
)

alerts = sa.Table(
    "alerts",
    metadata,
    _id(),
    _ref("incident_id", "incidents"),
    sa.Column("kind", sa.Text, nullable=False),
    # Hash of the channel's address, which may be a secret.
    sa.Column("channel", sa.Text, nullable=False),
    _time("due_at", nullable=False, now=True),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # Who sends it holds it until then: a sender that dies leaves it to the next.
    _time("held_until"),
    _time("sent_at"),
    # Alerts that left in one message share this.
    sa.Column("message_id", UUID(as_uuid=True)),
    sa.Column("last_error", sa.Text),
    sa.UniqueConstraint("incident_id", "kind", "channel"),
    _one_of("kind", "opened", "closed"),
    sa.CheckConstraint("attempts >= 0", name="attempts"),
    sa.Index("ix_alerts_due", "channel", "due_at", postgresql_where=sa.text("sent_at IS NULL")),
    sa.Index("ix_alerts_sent_at", "channel", "sent_at"),
)

watchers = sa.Table(
    "watchers",
    metadata,
    # A sensor or schedule that looks by itself, and when it last did.
    sa.Column("name", sa.Text, primary_key=True),
    _time("ticked_at", nullable=False),
)

sweeps = sa.Table(
    "sweeps",
    metadata,
    # A look that takes longer than a tick, such as the one over all objects in S3, goes on where it stopped.
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("cursor", sa.Text, nullable=False, server_default=""),
    _time("began_at", nullable=False, now=True),
    # When it was last through.
    _time("completed_at"),
    # Why it cannot go on; none while it can.
    sa.Column("error", sa.Text),
)

observations = sa.Table(
    "observations",
    metadata,
    # What a sweep found that a query cannot see: an object that is gone, a partition key of nobody.
    sa.Column("check_name", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", JSONB, nullable=False),
    _time("since", nullable=False, now=True),
    sa.PrimaryKeyConstraint("check_name", "subject"),
)
