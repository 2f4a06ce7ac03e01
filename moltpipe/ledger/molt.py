"""A MOLT database: read as Prisma left it, and taken into the ledger in one transaction.

Here: reading the old tables, and writing what was decided about their rows. Not here: what becomes of a row
(`studio.adoption`), mending what was brought over (`ledger.repairs`).

The old database is only ever read: one snapshot, in a transaction that the server itself keeps from writing. Ours gets
all of it or nothing. Rows that break a CHECK of ours are evidence, so the CHECK is put aside for the moment in which
they come in, and stands again as NOT VALID: it holds for every row written from then on, and repair validates it when
nothing breaks it any more. The alternatives were to bend the evidence until it fits, and to do without the CHECK.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL, Connection

from moltpipe.ledger.audit import record
from moltpipe.ledger.database import Database, psycopg_url, unavailable
from moltpipe.ledger.schema import audit, limited_series, script_votes, scripts, studios, voting_periods
from moltpipe.studio.adoption import (
    PROCESSED_WHEN_OVER,
    PROCESSED_WITH_OUTCOME,
    SELECTED_HAS_SERIES,
    Here,
    Judgement,
    Memory,
    Plan,
    judge_document,
    plan_adoption,
)
from moltpipe.studio.molt import (
    TABLES,
    Molt,
    OldAgent,
    OldCategory,
    OldPeriod,
    OldScript,
    OldSeries,
    OldStudio,
    OldVote,
)
from moltpipe.studio.records import Period

ACTION = "adopt"
"""Of the audit's entries about adoptions."""

_ADOPTING = 0x61646F7074  # any number will do, as long as every moltpipe uses the same
_CONNECT_TIMEOUT_S = 10
_PATIENCE_S = 20.0
_PAUSE_S = 0.05
_INSUFFICIENT_PRIVILEGE = "42501"
_LOCK_NOT_AVAILABLE = "55P03"
# What Prisma reads from its URL and no other client knows.
_FOR_PRISMA = (
    "schema",
    "connection_limit",
    "pool_timeout",
    "socket_timeout",
    "pgbouncer",
    "statement_cache_size",
    "sslaccept",
    "sslidentity",
    "sslpassword",
)
_READ: Mapping[type[Any], str] = {OldAgent: "agents", OldCategory: "categories", **TABLES}
_MEDIA = {"episodes": ("id", "series_id", "video_url", "tts_audio_url"), "clip_variants": ("episode_id", "video_url")}
_OF_CONSTRAINT = {
    SELECTED_HAS_SERIES: scripts,
    PROCESSED_WHEN_OVER: voting_periods,
    PROCESSED_WITH_OUTCOME: voting_periods,
}
_WRITTEN = (voting_periods, scripts, limited_series, script_votes, studios)

Old = TypeVar("Old")


class AdoptionRefused(Exception):
    """An old database cannot be brought over. Nothing was written."""


class NotMolt(AdoptionRefused):
    """The other database lacks tables or columns that a MOLT database has."""

    def __init__(self, address: str, missing: Sequence[str]) -> None:
        super().__init__(f"{address} is no MOLT database that can be read: there is no {', no '.join(missing)}")
        self.missing = tuple(missing)


class SourceForbidden(AdoptionRefused):
    """The role of the other database may not read what is needed."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address} cannot be read: {reason}. The role needs SELECT on the tables of MOLT")
        self.reason = reason


class SameDatabase(AdoptionRefused):
    """The other database is the ledger itself."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} is this moltpipe's own database: expected the old one")


class NotTheOwner(AdoptionRefused):
    """Old rows break constraints, and this role may not put those aside."""

    def __init__(self, names: Sequence[str], reason: str) -> None:
        super().__init__(
            f"old rows break {', '.join(names)}, which must be made NOT VALID to bring them over, and this role may "
            f"not do that ({reason}). Nothing was adopted: set MOLTPIPE_DATABASE_URL to the role that owns the tables"
        )
        self.names = tuple(names)


class LedgerBusy(AdoptionRefused):
    """Other processes keep writing to the ledger."""

    def __init__(self) -> None:
        super().__init__(
            f"the ledger's tables were in use for {_PATIENCE_S:.0f} s without a pause. Nothing was adopted: "
            "try again, or stop `moltpipe up` for the moment"
        )


@dataclass(frozen=True)
class Adoption:
    """What came over, and what there is to say about it."""

    source: str
    """Where the old database is, without user and password."""
    plan: Plan
    not_valid: tuple[str, ...]
    """Constraints that hold for new rows only, now: those of this adoption and of earlier ones."""
    dry_run: bool

    @property
    def unchanged(self) -> bool:
        """There was nothing to bring over."""
        return not any(self.plan.adopted.values())

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe adopt --json`."""
        return {
            "source": self.source,
            "dry_run": self.dry_run,
            "unchanged": self.unchanged,
            "adopted": self.plan.adopted,
            "already_here": dict(self.plan.already_here),
            "not_for_us": self.plan.not_for_us,
            "remarks": [one.as_json() for one in self.plan.remarks],
            "changed": [one.as_json() for one in self.plan.changed],
            "not_valid": list(self.not_valid),
        }


def adopt(database: Database, url: str, by: str, now: datetime, *, dry_run: bool) -> Adoption:
    """Bring a MOLT database over, whole or not at all; with `dry_run`, do the same and undo it.

    Raises:
        ValueError: the URL is not one of PostgreSQL.
        AdoptionRefused: it cannot be brought over, for a reason that the error's type names.
        DatabaseUnavailable: one of the two cannot be reached.
    """
    with _opened(url) as source:
        with database.begin() as db:
            source.refuse_if_it_is(db)
            here = set(db.execute(sa.select(scripts.c.id)).scalars())
        old = source.read()
    # Between the two databases, where nobody waits for it.
    judgements = {one.id: judge_document(one.script_data) for one in old.scripts if one.id not in here}
    with database.begin() as db:
        adoption = _take_in(db, old, judgements, source.address, by, now)
        if dry_run:
            db.rollback()
    return dataclasses.replace(adoption, dry_run=dry_run)


def _take_in(
    db: Connection, old: Molt, judgements: Mapping[UUID, Judgement], address: str, by: str, now: datetime
) -> Adoption:
    """Write what is not here yet, in the caller's one transaction.

    Nobody else reads or writes the tables in the meantime: two that adopt at once adopt once.

    Raises:
        LedgerBusy: others use the tables all the time.
        NotTheOwner: constraints must be put aside, and may not.
    """
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADOPTING)))
    _hold_tables(db)
    plan = plan_adoption(old, _here(db, address), now, judgements)
    if any(plan.adopted.values()):
        with _put_aside(db, plan.breaks):
            _write(db, plan)
        _record(db, plan, address, by)
    return Adoption(address, plan, _not_valid(db), dry_run=False)


# --- The old database --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    address: str
    schema: str
    connection: Connection

    def refuse_if_it_is(self, db: Connection) -> None:
        """Ask the databases themselves: names and addresses of one can be spelled in many ways.

        Advisory locks are known throughout one database and nowhere else.
        """
        number = secrets.randbits(62)
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
        if not self.connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(number))).scalar_one():
            raise SameDatabase(self.address)

    def read(self) -> Molt:
        """All rows of one snapshot."""
        try:
            there = self._columns()
            self._expect_all(there)
            return Molt(
                agents=self._rows(OldAgent, there),
                categories=self._rows(OldCategory, there),
                studios=self._rows(OldStudio, there),
                scripts=self._rows(OldScript, there, _FOR_US),
                votes=self._rows(OldVote, there, self._on_no_post()),
                periods=self._rows(OldPeriod, there),
                series=self._rows(OldSeries, there),
                episodes_with_media=self._episodes_with_media(),
                posts=self._count_posts(),
            )
        except sa.exc.ProgrammingError as error:
            if getattr(error.orig, "sqlstate", None) != _INSUFFICIENT_PRIVILEGE:
                raise
            raise SourceForbidden(self.address, _said(error)) from error

    def _columns(self) -> dict[str, set[str]]:
        """The columns of every table, asked of the catalog: it shows also those that the role may not read."""
        rows = self.connection.execute(
            sa.text(
                "SELECT c.relname, a.attname FROM pg_class AS c "
                "JOIN pg_namespace AS n ON n.oid = c.relnamespace "
                "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
                "WHERE n.nspname = :schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
            ),
            {"schema": self.schema},
        )
        columns: dict[str, set[str]] = defaultdict(set)
        for table, column in rows:
            columns[table].add(column)
        return dict(columns)

    def _expect_all(self, there: Mapping[str, set[str]]) -> None:
        wanted: dict[str, Sequence[str]] = {
            table: [one.name for one in dataclasses.fields(kind) if one.default is dataclasses.MISSING]
            for kind, table in _READ.items()
        }
        missing = [f"table {table}" for table in (*wanted, *_MEDIA) if table not in there]
        missing += [
            f"column {table}.{column}"
            for table, columns in (wanted | _MEDIA).items()
            for column in columns
            if table in there and column not in there[table]
        ]
        if missing:
            raise NotMolt(self.address, missing)

    def _rows(
        self, kind: type[Old], there: Mapping[str, set[str]], where: sa.ColumnElement[bool] | None = None
    ) -> tuple[Old, ...]:
        table = _READ[kind]
        names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type] # each of `_READ` is a dataclass
        chosen = [sa.column(name) if name in there[table] else sa.null().label(name) for name in names]
        statement = sa.select(*chosen).select_from(self._table(table))
        if where is not None:
            statement = statement.where(where)
        rows = self.connection.execute(statement).mappings()
        return tuple(kind(**{name: _in_utc(row[name]) for name in names}) for row in rows)

    def _on_no_post(self) -> sa.ColumnElement[bool]:
        """Votes on pilots, and on scripts that do not exist; agents vote on posts as well."""
        posts: sa.Select[Any] = sa.select(sa.column("id")).select_from(self._table("scripts")).where(~_FOR_US)
        return sa.column("script_id").not_in(posts)

    def _count_posts(self) -> int:
        statement = sa.select(sa.func.count()).select_from(self._table("scripts")).where(~_FOR_US)
        return int(self.connection.execute(statement).scalar_one())

    def _episodes_with_media(self) -> dict[UUID, int]:
        episodes = self._table("episodes", *_MEDIA["episodes"])
        variants = self._table("clip_variants", *_MEDIA["clip_variants"])
        address = sa.func.coalesce(
            *(sa.func.nullif(one, "") for one in (episodes.c.video_url, episodes.c.tts_audio_url, variants.c.video_url))
        )
        rows = self.connection.execute(
            sa.select(episodes.c.series_id, sa.func.count(episodes.c.id.distinct()))
            .outerjoin_from(episodes, variants, variants.c.episode_id == episodes.c.id)
            .where(address.is_not(None))
            .group_by(episodes.c.series_id)
        )
        return {row[0]: row[1] for row in rows}

    def _table(self, name: str, *columns: str) -> sa.TableClause:
        return sa.table(name, *(sa.column(one) for one in columns), schema=self.schema)


_FOR_US = sa.or_(
    sa.column("script_type") == "pilot", sa.column("pilot_status").is_not(None), sa.column("series_id").is_not(None)
)


@contextmanager
def _opened(url: str) -> Iterator[_Source]:
    """The old database in one transaction that sees one moment and cannot write.

    Raises:
        ValueError: the URL is not one of PostgreSQL.
        DatabaseUnavailable: it cannot be reached.
    """
    given = psycopg_url(url)
    address = given.difference_update_query(_FOR_PRISMA)
    arguments = {} if "connect_timeout" in address.query else {"connect_timeout": _CONNECT_TIMEOUT_S}
    # No options of a session: a pooler, which such databases often stand behind, would refuse them.
    engine = sa.create_engine(address, poolclass=sa.NullPool, connect_args=arguments)
    try:
        with unavailable(address), engine.connect() as plain:
            connection = plain.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield _Source(_spelled(address), str(given.query.get("schema") or "public"), connection)
    finally:
        engine.dispose()


def _spelled(url: URL) -> str:
    """Where a database is: host, port and name, and nothing that lets anybody in."""
    host = url.host or url.query.get("host") or "localhost"
    port = url.port or url.query.get("port")
    return f"{host}{f':{port}' if port else ''}/{url.database or ''}"


def _in_utc(value: object) -> object:
    """Prisma writes UTC also into columns without a time zone."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


# --- The ledger --------------------------------------------------------------------------------------


def _hold_tables(db: Connection) -> None:
    """Keep everybody else away from the tables, for the moment that it takes.

    Never waits while it holds one of them: that would be a deadlock with whoever has another and wants this one.
    """
    names = ", ".join(table.name for table in _WRITTEN)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with db.begin_nested():
                db.execute(sa.text(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE NOWAIT"))
        except sa.exc.OperationalError as error:
            if _state(error) != _LOCK_NOT_AVAILABLE:
                raise
            if time.monotonic() > deadline:
                raise LedgerBusy from error
            time.sleep(_PAUSE_S)
        else:
            return


def _here(db: Connection, address: str) -> Here:
    known = db.execute(sa.select(studios.c.id, studios.c.slug)).all()
    periods = db.execute(sa.select(voting_periods).where(voting_periods.c.period_type == "agent_voting"))
    return Here(
        slugs=frozenset(one.slug for one in known),
        studios=frozenset(one.id for one in known),
        periods=tuple(
            Period(row.id, row.period_type, row.starts_at, row.ends_at, row.is_active, row.is_processed)
            for row in periods
        ),
        scripts={row.id: row.pilot_status for row in db.execute(sa.select(scripts.c.id, scripts.c.pilot_status))},
        series={
            row.id: row.script_id for row in db.execute(sa.select(limited_series.c.id, limited_series.c.script_id))
        },
        memory=_memory(db, audit.c.action == ACTION),
        memory_of_it=_memory(db, (audit.c.action == ACTION) & (audit.c.subject == address)),
    )


def _memory(db: Connection, where: sa.ColumnElement[bool]) -> Memory:
    """What the audit knows of earlier adoptions."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    votes: dict[str, dict[str, int]] = defaultdict(dict)
    for document in db.execute(sa.select(audit.c.after).where(where).order_by(audit.c.at)).scalars():
        for table, digests in document["rows"].items():
            rows[table] |= digests
        for script_id, given in document["votes"].items():
            votes[script_id] |= given
    return Memory(rows, votes)


@contextmanager
def _put_aside(db: Connection, names: Sequence[str]) -> Iterator[None]:
    """Drop constraints for the body's rows, and have them hold again for every row that is written after it."""
    spelled = {name: definition for name in names if (definition := _definition(db, name)) is not None}
    try:
        for name in spelled:
            db.execute(sa.text(f"ALTER TABLE {_OF_CONSTRAINT[name].name} DROP CONSTRAINT {name}"))
    except sa.exc.ProgrammingError as error:
        if _state(error) != _INSUFFICIENT_PRIVILEGE:
            raise
        raise NotTheOwner(names, _said(error)) from error
    yield
    for name, definition in spelled.items():
        # Straight to the driver: a colon in SQL is not a parameter here.
        db.exec_driver_sql(f"ALTER TABLE {_OF_CONSTRAINT[name].name} ADD CONSTRAINT {name} {definition} NOT VALID")


def _definition(db: Connection, name: str) -> str | None:
    """A constraint as Postgres spells it; None when somebody has dropped it."""
    found: str | None = db.execute(
        sa.text(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE conname = :name AND conrelid = to_regclass(:table_name)"
        ),
        {"name": name, "table_name": _OF_CONSTRAINT[name].name},
    ).scalar_one_or_none()
    return found.removesuffix(" NOT VALID") if found else None


def _not_valid(db: Connection) -> tuple[str, ...]:
    rows = db.execute(
        sa.text(
            "SELECT conname FROM pg_constraint WHERE NOT convalidated "
            "AND conrelid IN (to_regclass('scripts'), to_regclass('voting_periods')) ORDER BY conname"
        )
    )
    return tuple(rows.scalars())


def _write(db: Connection, plan: Plan) -> None:
    _insert(db, studios, [dataclasses.asdict(one) for one in plan.studios])
    for period in plan.periods:
        values = dataclasses.asdict(period) | {"outcome": period.outcome or sa.null()}
        db.execute(sa.insert(voting_periods).values(values))
    # A script and its series refer to each other: the script comes first, without it.
    with_series = [one for one in plan.scripts if one.series_id is not None]
    drafts = [dataclasses.asdict(one) | {"pilot_status": "draft", "series_id": None} for one in with_series]
    others = [dataclasses.asdict(one) for one in plan.scripts if one.series_id is None]
    _insert(db, scripts, drafts + others)
    _insert(db, limited_series, [dataclasses.asdict(one) for one in plan.series])
    if with_series:
        db.execute(
            sa.update(scripts)
            .where(scripts.c.id == sa.bindparam("script"))
            .values(pilot_status=sa.bindparam("status"), series_id=sa.bindparam("series")),
            [{"script": one.id, "status": one.pilot_status, "series": one.series_id} for one in with_series],
        )
    if plan.votes:
        # A voter may have voted here since under the same name: that is the newer word.
        votes = insert(script_votes).on_conflict_do_nothing()
        db.execute(votes, [dataclasses.asdict(one) for one in plan.votes])


def _insert(db: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        db.execute(sa.insert(table), rows)


def _record(db: Connection, plan: Plan, address: str, by: str) -> None:
    counts = ", ".join(f"{count} {table}" for table, count in plan.adopted.items() if count)
    what = f"brought over {counts}; {len(plan.remarks)} remarks"
    loosened = f"; {', '.join(plan.breaks)} NOT VALID" if plan.breaks else ""
    after = {"adopted": plan.adopted, "rows": plan.memory.rows, "votes": plan.memory.votes}
    record(db, by=by, action=ACTION, subject=address, what=what + loosened, after=after)


def _state(error: sa.exc.DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None)
    return state


def _said(error: sa.exc.DBAPIError) -> str:
    return " ".join(str(error.orig).split())
