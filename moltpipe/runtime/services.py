"""Postgres and S3 for everything that runs on one DATA_DIR: started by the first, shared, stopped by the last.

Here: who uses the services, what is remembered of them, when they start and stop. Not here: how each of
them works (`runtime.postgres`, `runtime.s3`), the variables made from it (`runtime.environment`).

Three kinds of lock, all files in DATA_DIR, all let go of by the kernel however a process dies:
`services.lock` is held while services are started or stopped; `services.users` is shared by everybody who
uses them, so whoever can take it alone is the last; and each service holds its own.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from moltpipe.runtime.background import ensure_running, stop
from moltpipe.runtime.locks import FileLock, exclusively
from moltpipe.runtime.postgres import EmbeddedPostgres, PostgresRecord
from moltpipe.runtime.s3 import REGION, EmbeddedS3, S3Record, with_bucket
from moltpipe.runtime.signals import undisturbed
from moltpipe.settings import Settings
from moltpipe.store import PATIENT, Patience, Store, connect


@dataclass(frozen=True)
class S3Access:
    """Where S3 is, and with what credentials; without them boto3 looks where it usually does."""

    endpoint_url: str
    access_key: str | None = None
    secret_key: SecretStr | None = None
    region: str | None = None


@dataclass(frozen=True)
class Services:
    """The services as the settings and what runs have it."""

    database_url: SecretStr
    s3: S3Access
    embedded: frozenset[str]
    """Which of `postgres` and `s3` we run ourselves."""


class _Remembered(BaseModel):
    """What `services.json` holds. Ports and credentials outlive a stop, so that addresses stay the same."""

    model_config = ConfigDict(frozen=True)

    postgres: PostgresRecord | None = None
    s3: S3Record | None = None


@contextmanager
def services(settings: Settings) -> Iterator[Services]:
    """The services for the length of a block: those named in the settings, and embedded ones for the rest.

    Several processes may hold them at once. The last one to leave stops them; after a holder was killed,
    the next one joins what still runs, and starts what does not.

    Raises:
        ServiceError: an embedded service does not come up.
    """
    if not _embedded(settings):
        yield _described(settings, _Remembered())
        return
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(settings.data_dir / "services.users") as users:
        try:
            with exclusively(_starting(settings)):
                users.share()
                held = _ensure(settings)
            yield held
        finally:
            _leave(settings, users)


def open_store(services: Services, bucket: str, patience: Patience = PATIENT) -> Store:
    """The bucket of the running services."""
    secret = services.s3.secret_key
    return connect(
        bucket,
        services.s3.endpoint_url,
        access_key=services.s3.access_key,
        secret_key=secret.get_secret_value() if secret else None,
        region=services.s3.region,
        patience=patience,
    )


def mend(settings: Settings) -> Services:
    """Start again what died while it was held, at the same address where that is still free."""
    with exclusively(_starting(settings)):
        return _ensure(settings)


def _embedded(settings: Settings) -> frozenset[str]:
    wanted = {"postgres": settings.database_url is None, "s3": settings.s3_endpoint_url is None}
    return frozenset(name for name, ours in wanted.items() if ours)


def _starting(settings: Settings) -> Path:
    return settings.data_dir / "services.lock"


def _ensure(settings: Settings) -> Services:
    """Both services running and the bucket there. The caller holds `services.lock`."""
    embedded = _embedded(settings)
    remembered = _recall(settings.data_dir)

    def save(**changed: PostgresRecord | S3Record) -> None:
        nonlocal remembered
        now = remembered.model_copy(update=changed)
        if now != remembered:
            remembered = now
            _remember(settings.data_dir, remembered)

    if "postgres" in embedded:
        postgres = EmbeddedPostgres(settings.data_dir)
        ensure_running(postgres, remembered.postgres, lambda record: save(postgres=record))
    if "s3" in embedded:
        s3 = ensure_running(EmbeddedS3(settings.data_dir), remembered.s3, lambda record: save(s3=record))
        save(s3=with_bucket(s3, settings.s3_bucket))
    return _described(settings, remembered)


def _leave(settings: Settings, users: FileLock) -> None:
    with undisturbed(), exclusively(_starting(settings)):
        users.release()
        if not users.try_take():
            return
        remembered = _recall(settings.data_dir)
        # In the reverse of the order in which they were started.
        s3 = EmbeddedS3(settings.data_dir)
        stop(s3, remembered.s3.pid if remembered.s3 else None)
        s3.clear(remembered.s3)
        stop(EmbeddedPostgres(settings.data_dir), remembered.postgres.pid if remembered.postgres else None)


def _described(settings: Settings, remembered: _Remembered) -> Services:
    if settings.database_url is not None:
        database_url = settings.database_url
    else:
        assert remembered.postgres is not None  # noqa: S101 - `_ensure` has started what the settings do not name
        database_url = SecretStr(remembered.postgres.url())
    if settings.s3_endpoint_url is not None:
        s3 = S3Access(endpoint_url=settings.s3_endpoint_url)
    else:
        assert remembered.s3 is not None  # noqa: S101 - as above
        s3 = S3Access(remembered.s3.url(), remembered.s3.access_key, remembered.s3.secret_key, REGION)
    return Services(database_url=database_url, s3=s3, embedded=_embedded(settings))


def _recall(data_dir: Path) -> _Remembered:
    try:
        return _Remembered.model_validate_json((data_dir / "services.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        # Lost or spoilt: the services make themselves new credentials for the old data.
        return _Remembered()


def _remember(data_dir: Path, remembered: _Remembered) -> None:
    """Written beside and renamed, readable by its owner alone: a reader sees the old or the new, never a half."""
    descriptor, name = tempfile.mkstemp(dir=data_dir, prefix="services.", suffix=".json.new")
    with os.fdopen(descriptor, "w") as file:
        file.write(remembered.model_dump_json(indent=2))
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(data_dir / "services.json")
