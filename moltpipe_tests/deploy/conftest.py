"""Where the files of a deployment lie, and a database with the roles that deploy/postgres makes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest

from moltpipe.runtime.postgres import binaries

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"


@dataclass(frozen=True)
class Studio:
    """A database with the three roles, as a deployment has it."""

    admin: str
    owner: str
    app: str
    read: str
    environ: dict[str, str]
    """What `roles.sh` runs with."""


def run_roles(environ: dict[str, str]) -> None:
    subprocess.run(["sh", str(DEPLOY / "postgres" / "roles.sh")], env=environ, check=True)


@pytest.fixture(scope="module")
def empty_studio(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The roles are there, the tables are not."""
    secrets = tmp_path_factory.mktemp("secrets")
    for name in ("postgres", "owner", "app", "read"):
        (secrets / f"{name}_password").write_text(f"of '{name}'\n")
    name = f"studio_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        url = postgres_url.replace("/postgres?", f"/{name}?")
        environ = {
            "PATH": os.pathsep.join([str(binaries()), os.environ["PATH"]]),
            "SECRETS": str(secrets),
            "PGHOST": parse_qs(urlsplit(url).query)["host"][0],
            "PGUSER": "postgres",
            "PGDATABASE": name,
        }
        run_roles(environ)
        yield Studio(url, _as(url, "owner"), _as(url, "app"), _as(url, "read"), environ)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        for role in ("owner", "app", "read"):
            admin.execute(f"DROP ROLE moltpipe_{role}")


def environ_of(url: str, data_dir: Path) -> dict[str, str]:
    """The environment of `moltpipe` on an own database, whose S3 is an address that nobody contacts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MOLTPIPE_", "PG"))}
    return {
        **kept,
        "MOLTPIPE_DATABASE_URL": url,
        "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "MOLTPIPE_DATA_DIR": str(data_dir),
    }


def _as(url: str, role: str) -> str:
    parts = urlsplit(url)
    query = urlencode({name: value[0] for name, value in parse_qs(parts.query).items()})
    return urlunsplit(parts._replace(netloc=f"moltpipe_{role}:of%20'{role}'@", query=query))
