"""What assets, checks and sensors are given: the ledger, the store and the production line.

Here: how both are opened from the settings. Nothing connects at import or when definitions load.
"""

from collections.abc import Iterator
from functools import cache

import dagster as dg
from dagster_aws.s3 import S3Resource

from moltpipe.ledger.database import Database
from moltpipe.production.line import Line, open_line
from moltpipe.runtime.log_lines import log_lines
from moltpipe.settings import Settings, load_settings
from moltpipe.store import A_LOOK, Store, connect


def _database_url(settings: Settings) -> str:
    if settings.database_url is None:
        raise dg.DagsterInvariantViolationError(
            "MOLTPIPE_DATABASE_URL is not set: start Dagster through `moltpipe up` or `moltpipe exec -- …`"
        )
    return settings.database_url.get_secret_value()


@dg.resource(description="The record in Postgres, for what needs nothing else: sensors, schedules and checks.")
def ledger(_context: dg.InitResourceContext) -> Database:
    """One for the whole process, kept from tick to tick; nothing connects before the first transaction."""
    return _ledger_at(_database_url(load_settings()))


@cache
def _ledger_at(url: str) -> Database:
    return Database(url)


@dg.resource(
    required_resource_keys={"s3"},
    description="The production line: ledger, store, engines and house profile.",
)
def line(context: dg.InitResourceContext) -> Iterator[Line]:
    """Opened for one run, its scratch space cleared afterwards. The run's lines are printed meanwhile."""
    settings = load_settings()
    with (
        log_lines(settings.log_format),
        open_line(settings, Store(settings.s3_bucket, context.resources.s3)) as opened,
    ):
        yield opened


@dg.resource(description="The media in S3, for looking at what is there: gives up sooner than a run does.")
def store(_context: dg.InitResourceContext) -> Store:
    """Credentials and region come from the usual `AWS_*` environment."""
    settings = load_settings()
    return _store_at(settings.s3_bucket, settings.s3_endpoint_url)


@cache
def _store_at(bucket: str, endpoint_url: str | None) -> Store:
    # A client takes a tenth of a second to build, and may be shared between threads.
    return connect(bucket, endpoint_url, patience=A_LOOK)


def resources() -> dict[str, object]:
    """The resources of a deployment. Credentials and region come from the usual `AWS_*` environment."""
    return {
        "s3": S3Resource(endpoint_url=dg.EnvVar("MOLTPIPE_S3_ENDPOINT_URL"), max_attempts=5),
        "ledger": ledger,
        "line": line,
        "store": store,
    }
