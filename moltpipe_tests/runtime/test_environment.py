from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest
import sqlalchemy
from pydantic import SecretStr

from moltpipe.runtime.environment import dagster_home, dagster_url, environment
from moltpipe.runtime.services import S3Access, Services
from moltpipe.settings import Settings

URL = "postgresql://us%40er:p%2Fw@db.example:6543/prod?sslmode=require"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", max_concurrent_runs=7)


@pytest.fixture
def external() -> Services:
    return Services(SecretStr(URL), S3Access("https://s3.example"), frozenset())


@pytest.fixture
def embedded() -> Services:
    s3 = S3Access("http://127.0.0.1:1", "key", SecretStr("secret"), "us-east-1")
    return Services(SecretStr("postgresql://moltpipe:pw@127.0.0.1:2/moltpipe"), s3, frozenset({"postgres", "s3"}))


def test_psql_finds_the_database_in_the_parts_of_the_url(settings: Settings, external: Services) -> None:
    variables = environment(settings, external)
    assert {name: value for name, value in variables.items() if name.startswith("PG")} == {
        "PGHOST": "db.example",
        "PGPORT": "6543",
        "PGUSER": "us@er",
        "PGPASSWORD": "p/w",
        "PGDATABASE": "prod",
        "PGSSLMODE": "require",
    }


def test_dagster_gets_its_driver_and_schema_and_keeps_all_other_parameters() -> None:
    made = sqlalchemy.make_url(dagster_url(URL + "&options=-cstatement_timeout%3D9"))
    assert made.drivername == "postgresql+psycopg2"
    assert made.username == "us@er"
    assert made.password == "p/w"  # noqa: S105 - of this test
    assert made.query == {"sslmode": "require", "options": "-cstatement_timeout=9 -csearch_path=dagster"}


def test_an_alias_of_the_scheme_becomes_the_one_that_all_libraries_take(settings: Settings) -> None:
    services = Services(SecretStr("postgres://u@h/d"), S3Access("https://s3.example"), frozenset())
    assert environment(settings, services)["MOLTPIPE_DATABASE_URL"] == "postgresql://u@h/d"


def test_the_operators_credentials_are_left_alone_when_s3_is_not_ours(settings: Settings, external: Services) -> None:
    variables = environment(settings, external)
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} & variables.keys()


def test_the_region_of_the_operator_is_kept_for_an_s3_that_is_not_ours(
    settings: Settings, external: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.delenv("AWS_REGION", raising=False)
    assert environment(settings, external)["AWS_REGION"] == "eu-central-1"


def test_the_embedded_services_bring_credentials_and_a_psql(settings: Settings, embedded: Services) -> None:
    variables = environment(settings, embedded)
    assert variables["AWS_ACCESS_KEY_ID"] == "key"
    assert variables["AWS_SECRET_ACCESS_KEY"] == "secret"  # noqa: S105 - of this test
    assert variables["AWS_SESSION_TOKEN"] == ""
    assert variables["AWS_ENDPOINT_URL_S3"] == "http://127.0.0.1:1"
    first, second, *rest = variables["PATH"].split(os.pathsep)
    assert first == sysconfig.get_path("scripts")
    # A pg_dump that is older than its server refuses, so that of the machine comes after it.
    assert os.access(Path(second) / "pg_dump", os.X_OK)
    assert os.pathsep.join(rest) == os.environ["PATH"]


def test_there_is_a_psql_and_a_pg_dump_for_a_database_that_is_not_ours(
    settings: Settings, external: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image has no other, and the runbook's commands begin with `moltpipe exec -- psql`."""
    monkeypatch.setenv("PATH", str(tmp_path))
    last = Path(environment(settings, external)["PATH"].split(os.pathsep)[-1])
    assert all(os.access(last / program, os.X_OK) for program in ("psql", "pg_dump", "pg_restore"))


def test_every_variable_of_the_instances_configuration_is_set(settings: Settings, external: Services) -> None:
    variables = environment(settings, external)
    text = (Path(variables["DAGSTER_HOME"]) / "dagster.yaml").read_text()
    named = [line.split("env:")[1].strip() for line in text.splitlines() if "env:" in line and "#" not in line]
    assert named
    assert set(named) <= variables.keys()
    assert variables["MOLTPIPE_MAX_CONCURRENT_RUNS"] == "7"
    assert variables["DAGSTER_DISABLE_TELEMETRY"] == "1"


def test_the_configuration_is_refreshed_when_it_differs(tmp_path: Path) -> None:
    home = dagster_home(tmp_path)
    shipped = (home / "dagster.yaml").read_bytes()
    (home / "dagster.yaml").write_text("old: true")
    assert (dagster_home(tmp_path) / "dagster.yaml").read_bytes() == shipped
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]
