"""What an operator can set, and the one place where the environment is read for it.

Here: the settings of a process, read from `MOLTPIPE_*` variables, and the error that says which one is
wrong. Not here: the `AWS_*` credentials (boto reads them, `runtime.services` hands them on), what the
embedded services chose for themselves (`runtime.services`).

Source: the design's section 8. A new engine is one more name in a `Literal` and, when it is hosted, its fields.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from moltpipe.studio.profiles import Profile, parse_profile

PREFIX = "MOLTPIPE_"

_SET_FOR_CHILDREN = frozenset({"MOLTPIPE_DAGSTER_POSTGRES_URL"})
"""Set by `runtime.environment`, never by an operator; a child process must not stumble over it."""

_ENGINE_VARIABLE = re.compile(r"_(BASE_URL|API_KEY|MAX_CONCURRENCY|START_DELAY_MS)$")
"""Variables of hosted engines, set for other versions perhaps; they look alike, so none is taken for a typo."""

_SECRETS = frozenset({"database_url", "alert_urls"})
"""Fields whose values never reach a message: passwords, and webhooks whose address is the key."""

_TYPO_LIKENESS = 0.85

_BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"


class SettingsError(Exception):
    """The environment cannot be used. The text has one line per variable: name, what came, what was expected."""

    def __init__(self, complaints: Iterable[str]) -> None:
        self.complaints = tuple(complaints)
        super().__init__("\n".join(self.complaints))


def _profile(value: object) -> object:
    return parse_profile(value) if isinstance(value, str) else value


def _postgres_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    # libpq also takes the host, or the folder of its socket, as a parameter.
    host = parts.hostname or "".join(parse_qs(parts.query).get("host", ()))
    if parts.scheme not in ("postgresql", "postgres") or not host or not parts.path.strip("/"):
        raise ValueError("expected postgresql://user:password@host:port/database")
    return value


def _endpoint_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http(s)://host[:port], such as https://s3.eu-central-1.amazonaws.com")
    return value.rstrip("/")


def _url_list(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _alert_url(value: str) -> str:
    if "://" not in value:
        raise ValueError("expected Apprise URLs such as slack://… or https://…, separated by commas or blanks")
    return value


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow a link the operator chose


def _cores() -> int:
    return os.cpu_count() or 1


Budget = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All that can be set, with its defaults. Frozen: a process keeps the settings that it started with."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    database_url: Annotated[SecretStr, AfterValidator(_postgres_url)] | None = None
    """Postgres 14 or later. None starts the embedded one."""
    s3_bucket: str = Field(default="moltpipe", pattern=_BUCKET)
    s3_endpoint_url: Annotated[str, AfterValidator(_endpoint_url)] | None = None
    """Any S3, with its `AWS_*` credentials. None starts the embedded one."""
    data_dir: Annotated[Path, AfterValidator(_absolute)] = Path(".moltpipe")
    """Where the embedded services, the logs and `DAGSTER_HOME` lie. Made absolute when read."""

    media_url: Annotated[str, AfterValidator(_endpoint_url)] | None = None
    """Where a browser finds the bucket's objects, for links in the UI: `moltpipe up` serves one on loopback."""

    screenwriter: Literal["outline"] = "outline"
    voice: Literal["espeak"] = "espeak"
    camera: Literal["animatic"] = "animatic"
    composer: Literal["none"] = "none"
    profile: Annotated[Profile, NoDecode, BeforeValidator(_profile)] = parse_profile("360p24")

    budget_run_usd: Budget | None = None
    budget_series_usd: Budget | None = None
    budget_day_usd: Budget | None = None
    alert_urls: Annotated[
        tuple[Annotated[str, AfterValidator(_alert_url)], ...], NoDecode, BeforeValidator(_url_list)
    ] = ()

    lease_s: float = Field(default=60, gt=0)
    """How long a production job stays claimed without a heartbeat."""
    heartbeat_s: float = Field(default=5, gt=0)
    max_concurrent_runs: int = Field(default=4, ge=1)
    takes_at_once: int = Field(default_factory=_cores, ge=1)
    """Takes made side by side in one process; the machine's cores unless set."""


def load_settings() -> Settings:
    """The settings of this process's environment.

    Raises:
        SettingsError: a value cannot be used, or a variable looks like a misspelt one.
    """
    typos = misspelt(os.environ)
    if typos:
        raise SettingsError(f"{name} is not a setting: did you mean {meant}?" for name, meant in typos.items())
    try:
        settings = Settings()
    except ValidationError as refusal:
        raise SettingsError(_complaints(refusal)) from None
    if settings.heartbeat_s * 2 > settings.lease_s:
        raise SettingsError(
            [f"{PREFIX}HEARTBEAT_S={settings.heartbeat_s:g}: expected at most half of LEASE_S={settings.lease_s:g}"]
        )
    return settings


def variable(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return f"{PREFIX}{field}".upper()


def misspelt(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that nearly are a setting, each with the setting that it is like.

    Other unknown `MOLTPIPE_*` variables are left alone: tools around us set their own.
    """
    known = {variable(field) for field in Settings.model_fields} | _SET_FOR_CHILDREN
    bare = {name.removeprefix(PREFIX): name for name in known}
    found = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known or _ENGINE_VARIABLE.search(name):
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1, cutoff=_TYPO_LIKENESS)
        if near:
            found[name] = bare[near[0]]
    return found


def _complaints(refusal: ValidationError) -> list[str]:
    lines = []
    for error in refusal.errors(include_url=False):
        field = str(error["loc"][0])
        name = variable(field)
        came = "(hidden)" if field in _SECRETS else repr(os.environ.get(name, ""))
        said = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
        lines.append(f"{name}={came}: {said}")
    return list(dict.fromkeys(lines))
