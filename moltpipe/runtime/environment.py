"""The environment in which every program of the house runs: Dagster's processes, `exec`, a test.

Here: the variables and their values, and `DAGSTER_HOME` with the instance's configuration in it. Not here:
what an operator may set (`moltpipe.settings`), how the services come up (`runtime.services`).
"""

from __future__ import annotations

import os
import sysconfig
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

from moltpipe.runtime.postgres import binaries
from moltpipe.runtime.services import Services
from moltpipe.settings import Settings, SettingsError, variable

DAGSTER_SCHEMA = "dagster"
"""The schema of Dagster's own tables, in the same database as ours."""

_DEFAULT_REGION = "us-east-1"

_EXTRAS = {"celery": "dagster_celery", "k8s": "dagster_k8s"}
"""What a launcher needs that a plain installation does not have: the extra of the launcher's name brings it."""

_LIBPQ = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "dbname": "PGDATABASE",
    "options": "PGOPTIONS",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}
"""What libpq's programs call the parts of an address."""


def environment(settings: Settings, services: Services, *, instance_yaml: Path | None = None) -> dict[str, str]:
    """The variables to lay over this process's own environment.

    Writes `DAGSTER_HOME/dagster.yaml` when it is missing or differs from the project's (or from `instance_yaml`).

    Raises:
        SettingsError: the launcher lacks a setting or its library. Dagster would say so in a traceback, much later.
    """
    lacking = _lacking_for_launcher(settings)
    if lacking is not None:
        raise SettingsError([f"{lacking}, as {variable('launcher')}={settings.launcher}"])
    database_url = plain_url(services.database_url.get_secret_value())
    region = services.s3.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    variables = {
        "MOLTPIPE_DATABASE_URL": database_url,
        "MOLTPIPE_S3_ENDPOINT_URL": services.s3.endpoint_url,
        "MOLTPIPE_S3_BUCKET": settings.s3_bucket,
        "MOLTPIPE_DATA_DIR": str(settings.data_dir),
        "MOLTPIPE_DAGSTER_POSTGRES_URL": dagster_url(database_url),
        "MOLTPIPE_MAX_CONCURRENT_RUNS": str(settings.max_concurrent_runs),
        "AWS_REGION": region or _DEFAULT_REGION,
        "AWS_DEFAULT_REGION": region or _DEFAULT_REGION,
        "DAGSTER_HOME": str(dagster_home(settings.data_dir, instance_yaml)),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "AWS_ENDPOINT_URL_S3": services.s3.endpoint_url,
        "PATH": _search_path(services),
        **_libpq(database_url),
    }
    if services.s3.access_key is not None and services.s3.secret_key is not None:
        variables["AWS_ACCESS_KEY_ID"] = services.s3.access_key
        variables["AWS_SECRET_ACCESS_KEY"] = services.s3.secret_key.get_secret_value()
        # Those of another account, left in the shell, would be sent along and refused.
        variables["AWS_SESSION_TOKEN"] = ""
    return variables


def _lacking_for_launcher(settings: Settings) -> str | None:
    library = _EXTRAS.get(settings.launcher)
    if library is not None and find_spec(library) is None:
        return f"{library} is not installed: expected `pip install 'moltpipe[{settings.launcher}]'`"
    if settings.launcher == "celery" and settings.celery_broker_url is None:
        return f"{variable('celery_broker_url')} is not set: expected the address of Redis or RabbitMQ"
    return None


def _search_path(services: Services) -> str:
    """Ours first, so that `dagster` is that of this installation.

    The wheel's `psql` and `pg_dump` go before the operator's own where the server is the wheel's as well: a `pg_dump`
    that is older than its server refuses. Elsewhere they come last, for a machine that has none.
    """
    scripts, own, wheels = sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath), str(binaries())
    places = [scripts, wheels, own] if "postgres" in services.embedded else [scripts, own, wheels]
    return os.pathsep.join(places)


def plain_url(url: str) -> str:
    """`postgres://` is an alias that SQLAlchemy refuses."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme="postgresql"))


def dagster_url(database_url: str) -> str:
    """The same database for Dagster: its driver named, its schema first, all other parameters kept.

    SQLAlchemy 2.1 takes psycopg 3 for a bare `postgresql://`, while dagster-postgres brings psycopg2.
    """
    parts = urlsplit(database_url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} -csearch_path={DAGSTER_SCHEMA}".strip()
    return urlunsplit(parts._replace(scheme="postgresql+psycopg2", query=urlencode(query, quote_via=quote)))


def dagster_home(data_dir: Path, instance_yaml: Path | None = None) -> Path:
    """`DATA_DIR/dagster` with an up-to-date copy of the instance's configuration."""
    home = data_dir / "dagster"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = instance_yaml.read_bytes() if instance_yaml else _project_file("dagster.yaml")
    copy = home / "dagster.yaml"
    if not copy.exists() or copy.read_bytes() != wanted:
        # Renamed into place: a process that starts now reads the old or the new one, never a half.
        fresh = home / f"dagster.yaml.{os.getpid()}"
        fresh.write_bytes(wanted)
        fresh.replace(copy)
    return home


def _project_file(name: str) -> bytes:
    """A file that lies at the top of a checkout and beside this module in a wheel."""
    with as_file(files("moltpipe")) as package:
        packed, checkout = package / "runtime" / name, package.parent / name
        return (packed if packed.exists() else checkout).read_bytes()


def _libpq(database_url: str) -> dict[str, str]:
    parts = conninfo_to_dict(database_url)
    return {variable: str(parts[name]) for name, variable in _LIBPQ.items() if parts.get(name)}
