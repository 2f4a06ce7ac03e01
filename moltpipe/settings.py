"""What an operator can set, and the one place where the environment is read for it.

Here: the settings of a process, read from `MOLTPIPE_*` variables or from files of secrets, and the error that says
which one is wrong. Not here: the `AWS_*` credentials (boto reads them, `runtime.services` hands them on), what the
embedded services chose for themselves (`runtime.services`).

A password in a variable is seen by whoever may look at the container or its crash report. So each setting may also be
a file, named like its variable in lower case, in the folder where Docker and Kubernetes lay secrets.

Source: the design's section 8. A new engine is one more name in a `Literal` and, when it is hosted, its fields.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, TypeGuard
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from moltpipe.studio.profiles import Fit, Profile, parse_profile

PREFIX = "MOLTPIPE_"

_SET_FOR_CHILDREN = frozenset({"MOLTPIPE_DAGSTER_POSTGRES_URL"})
"""Set by `runtime.environment`, never by an operator; a child process must not stumble over it."""

_SECRETS = frozenset({"database_url", "alert_urls", "api_key", "webhook_secret", "celery_broker_url"})
"""Fields whose values never reach a message: passwords, and webhooks whose address is the key."""

_USUAL_SECRETS_DIR = Path("/run/secrets")

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
    # libpq would quote the password, or the end of it as a host, in its complaint.
    if parts.netloc.count("@") > 1 or re.search(r"%(?![0-9A-Fa-f]{2})", value.get_secret_value()):
        raise ValueError("expected user and password percent-encoded: @ as %40, % as %25, / as %2F")
    return value


def _broker_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme not in ("redis", "rediss", "amqp", "amqps", "pyamqp") or not parts.hostname:
        raise ValueError("expected redis://[user:password@]host:port/number or amqp://user:password@host:port/vhost")
    return value


def _endpoint_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected http(s)://host[:port], such as https://s3.eu-central-1.amazonaws.com")
    return value.rstrip("/")


def _url_list(value: object) -> object:
    """Addresses between blanks or commas. A comma inside one, such as between recipients of a mail, stays."""
    if not isinstance(value, str):
        return value
    return tuple(one for part in value.split() for one in re.split(r",+(?=[\w+.-]+://|$)", part) if one.strip(","))


def _alert_url(value: str) -> str:
    if "://" not in value:
        raise ValueError("expected Apprise URLs such as slack://… or mailto://…, separated by commas or blanks")
    return value


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow a link the operator chose


def _cores() -> int:
    return os.cpu_count() or 1


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError("expected http(s)://host[:port][/path], with the key in the variable for it")
    return value.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class _Files(SecretsSettingsSource):
    """Files of secrets, of which an empty one counts as unset, like an empty variable."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[str | None, str, bool]:
        """None where there is no such file, or nothing in it."""
        value, key, is_complex = super().get_field_value(field, field_name)
        return value or None, key, is_complex


class _FromVariablesOrFiles(BaseSettings):
    """Settings that are read from the environment, and from files of secrets where it says nothing."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The folder of secrets is itself a setting, which is known only now."""
        del dotenv_settings, file_secret_settings
        folder = secrets_dir()
        files = (_Files(settings_cls, secrets_dir=folder),) if folder and folder.is_dir() else ()
        return (init_settings, env_settings, *files)


class Account(_FromVariablesOrFiles):
    """What can be set for every hosted engine: `MOLTPIPE_<ENGINE>_<FIELD>`.

    A `base_url` without a path means the API's usual one under that host.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True, extra="ignore", frozen=True, validate_default=True, hide_input_in_errors=True
    )

    base_url: BaseUrl
    api_key: SecretStr | None = None
    max_concurrency: int = Field(default=2, ge=1)
    """Jobs in flight at once, over every process and machine."""
    start_delay_ms: int = Field(default=0, ge=0)
    """The least time between two starts, over every process and machine."""
    deadline_s: float = Field(default=3600, gt=0)
    """How long after its start a job is waited for."""
    price_usd: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] | None = None
    """What one unit costs (a second, a thousand characters: `moltpipe estimate` says which), by one's own contract."""

    @property
    def key(self) -> str:
        """The key in the clear; empty where none is set."""
        return self.api_key.get_secret_value() if self.api_key else ""


def _account(engine: str) -> SettingsConfigDict:
    return SettingsConfigDict(env_prefix=f"{PREFIX}{engine.upper()}_")


class Ltx2Account(Account):
    """MOLT's own LTX-2 behind a Modal web function, or any server that speaks the same."""

    model_config = _account("ltx2")
    base_url: BaseUrl | None = None  # type: ignore[assignment] # nobody hosts it for others: there is no usual address
    """The endpoint itself: requests go to this very address."""
    start_delay_ms: int = Field(default=500, ge=0)
    steps: int = Field(default=50, ge=1, le=200)


class ReplicateAccount(Account):
    """Replicate, for any video model that it hosts."""

    model_config = _account("replicate")
    base_url: BaseUrl = "https://api.replicate.com/v1"
    model: str = Field(default="google/veo-3.1-fast", pattern=r"^[\w.-]+/[\w.-]+(:[0-9a-f]{8,64})?$")
    """`owner/name`, or `owner/name:version` for a model that is not one of the official ones."""
    max_concurrency: int = Field(default=4, ge=1)
    start_delay_ms: int = Field(default=600, ge=0)
    webhook_secret: SecretStr | None = None


class VeoAccount(Account):
    """Veo through the Gemini API."""

    model_config = _account("veo")
    base_url: BaseUrl = "https://generativelanguage.googleapis.com/v1beta"
    model: str = Field(default="veo-3.1-fast-generate-preview", pattern=r"^[\w.-]+$")
    max_concurrency: int = Field(default=4, ge=1)
    start_delay_ms: int = Field(default=1200, ge=0)


class HeygenAccount(Account):
    """HeyGen: somebody who says the voiceover."""

    model_config = _account("heygen")
    base_url: BaseUrl = "https://api.heygen.com"
    avatar_id: str = Field(default="Abigail_expressive_2024112501", min_length=1)
    max_concurrency: int = Field(default=3, ge=1)
    start_delay_ms: int = Field(default=1000, ge=0)
    deadline_s: float = Field(default=4 * 3600, gt=0)
    webhook_secret: SecretStr | None = None


class StockAccount(Account):
    """DVIDS: footage of the United States' armed forces, in the public domain."""

    model_config = _account("stock")
    base_url: BaseUrl = "https://api.dvidshub.net"
    start_delay_ms: int = Field(default=1000, ge=0)


class ElevenlabsAccount(Account):
    """ElevenLabs."""

    model_config = _account("elevenlabs")
    base_url: BaseUrl = "https://api.elevenlabs.io/v1"
    model: str = Field(default="eleven_multilingual_v2", min_length=1)
    voice_id: str = Field(default="JBFqnCBsd6RMkjVDRZzb", min_length=1)
    """The voice of a line whose script names none."""


class OpenaiAccount(Account):
    """Any server with OpenAI's speech API, such as Kokoro-FastAPI. One of one's own needs no key."""

    model_config = _account("openai")
    base_url: BaseUrl = "https://api.openai.com/v1"
    model: str = Field(default="tts-1", min_length=1)
    voice: str = Field(default="alloy", min_length=1)


class ChatAccount(Account):
    """Any server with OpenAI's chat API: Groq, xAI, one of one's own."""

    model_config = _account("chat")
    base_url: BaseUrl = "https://api.groq.com/openai/v1"
    model: str = Field(default="openai/gpt-oss-120b", min_length=1)


class MusicgenAccount(Account):
    """MusicGen on Replicate. Without an address and a key of its own, it uses those of `replicate`."""

    model_config = _account("musicgen")
    base_url: BaseUrl | None = None  # type: ignore[assignment] # none means that of `replicate`
    model: str = Field(
        default="meta/musicgen:671ac645ce5e552cc63a54a2bbff63fcf798043055d2dac5fc9e36a837eedcfb",
        pattern=r"^[\w.-]+/[\w.-]+(:[0-9a-f]{8,64})?$",
    )
    start_delay_ms: int = Field(default=600, ge=0)


CameraName = Literal["animatic", "ltx2", "replicate", "veo", "heygen", "stock"]
_NEEDS_KEY = frozenset({"replicate", "veo", "heygen", "stock", "elevenlabs", "chat", "musicgen"})

Budget = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Settings(_FromVariablesOrFiles):
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
    secrets_dir: Path | None = None
    """Where settings lie as files, such as `moltpipe_database_url`. None means /run/secrets, where there is one."""

    media_url: Annotated[str, AfterValidator(_endpoint_url)] | None = None
    """Where a browser finds the bucket's objects, for links in the UI: `moltpipe up` serves one on loopback."""

    ui_url: Annotated[str, AfterValidator(_endpoint_url)] | None = None
    """Where the Dagster UI is found, for links in alerts: `moltpipe up` names its own."""

    screenwriter: Literal["outline", "chat"] = "outline"
    voice: Literal["espeak", "elevenlabs", "openai"] = "espeak"
    camera: CameraName = "animatic"
    second_camera: Literal["animatic", "ltx2", "replicate", "veo", "stock"] = "animatic"
    """Films what the camera cannot: HeyGen's people do not keep silent."""
    composer: Literal["none", "musicgen"] = "none"
    profile: Annotated[Profile, NoDecode, BeforeValidator(_profile)] = parse_profile("360p24")

    fit: Fit = Fit.PAD
    """How pictures of another shape are brought into the profile's frame."""
    encoder: Literal["auto", "libx264", "h264_nvenc", "h264_qsv", "h264_vaapi", "h264_amf", "h264_videotoolbox"] = (
        "libx264"
    )
    """What encodes pictures. A hardware encoder is used only if it encodes a frame on trial; `auto` tries them all."""
    loudness_lufs: float = Field(default=-14, ge=-31, le=-9)
    captions: Literal["soft", "burned"] = "soft"
    """`burned` puts them into the picture as well; they are a track of the video and files beside it anyway."""
    clip_sound: Literal["keep", "buy", "drop"] = "keep"
    """Whether the sound that clips come with is heard under the voice. `buy` also asks cameras that charge for it."""
    ambience: Literal["synthetic", "none"] = "synthetic"
    """What is heard where a shot's clip has no sound of its own."""

    budget_run_usd: Budget | None = None
    budget_series_usd: Budget | None = None
    budget_day_usd: Budget | None = None
    alert_urls: Annotated[
        tuple[Annotated[str, AfterValidator(_alert_url)], ...], NoDecode, BeforeValidator(_url_list)
    ] = ()

    ltx2: Ltx2Account = Field(default_factory=Ltx2Account)
    replicate: ReplicateAccount = Field(default_factory=ReplicateAccount)
    veo: VeoAccount = Field(default_factory=VeoAccount)
    heygen: HeygenAccount = Field(default_factory=HeygenAccount)
    stock: StockAccount = Field(default_factory=StockAccount)
    elevenlabs: ElevenlabsAccount = Field(default_factory=ElevenlabsAccount)
    openai: OpenaiAccount = Field(default_factory=OpenaiAccount)
    chat: ChatAccount = Field(default_factory=ChatAccount)
    musicgen: MusicgenAccount = Field(default_factory=MusicgenAccount)

    webhooks_url: Annotated[str, AfterValidator(_endpoint_url)] | None = None
    """Public address of `moltpipe webhooks`. None means that hosted engines are polled and nothing else."""
    max_result_bytes: int = Field(default=2 * 1024**3, ge=1024)
    """The largest result that is fetched from a hosted engine."""
    allow_private_results: bool = False
    """Whether results may be fetched over http or from addresses of a private network."""

    lease_s: float = Field(default=60, gt=0)
    """How long a production job stays claimed without a heartbeat."""
    heartbeat_s: float = Field(default=5, gt=0)
    max_concurrent_runs: int = Field(default=4, ge=1)
    launcher: Literal["local", "celery", "k8s"] = "local"
    """Where runs are started: as processes of this machine, by Celery's workers, or as pods of a Kubernetes cluster."""
    celery_broker_url: Annotated[SecretStr, AfterValidator(_broker_url)] | None = None
    """Redis or RabbitMQ, for `LAUNCHER=celery`."""
    run_pods: Annotated[Path, AfterValidator(_absolute)] | None = None
    """What the pods of runs are like, as a file, for `LAUNCHER=k8s`. Only what launches runs needs it."""
    log_format: Literal["text", "json"] = "text"
    """What processes print: for a person, or one JSON object a line for a collector."""

    retention: Literal["daily", "off"] = "daily"
    """Whether Dagster prunes by itself; `off` where a CronJob calls `moltpipe prune`."""
    keep_runs_days: int = Field(default=90, ge=1)
    """How long finished runs stay, with their events and what they printed."""
    keep_takes_days: int = Field(default=180, ge=1)
    """How long media that nothing refers to, or that was superseded, stays."""
    keep_records_days: int = Field(default=365, ge=1)
    """How long incidents that are over, alerts that were sent and events of webhooks stay. The audit stays for ever."""

    takes_at_once: int = Field(default_factory=_cores, ge=1)
    """Takes made side by side in one process; the machine's cores unless set."""

    def key_of(self, engine: str) -> str:
        """The key that a hosted engine uses, in the clear; empty where none is set."""
        account: Account = getattr(self, engine)
        return account.key or (self.replicate.key if engine == "musicgen" else "")

    def lacking(self, engine: str, *, with_key: bool = True) -> str | None:
        """What an engine cannot do without and does not have, in words; None when nothing is missing.

        Without `with_key` nobody asks for a key: a price can be quoted by an engine that has none.
        """
        if engine == "ltx2" and self.ltx2.base_url is None:
            return f"{variable('ltx2_base_url')} is not set: expected the address of the endpoint"
        if with_key and engine in _NEEDS_KEY and not self.key_of(engine):
            return f"{variable(f'{engine}_api_key')} is not set: expected a key"
        return None


def load_settings(*, with_keys: bool = True) -> Settings:
    """The settings of this process's environment.

    `with_keys` asks for the keys of the chosen engines, which are needed to call them and not to quote a price.

    Raises:
        SettingsError: a value cannot be used, or a variable looks like a misspelt one.
    """
    typos = misspelt(os.environ)
    if typos:
        raise SettingsError(f"{name} is not a setting: did you mean {meant}?" for name, meant in typos.items())
    unusable = _unusable_files()
    if unusable:
        raise SettingsError(unusable)
    try:
        settings = Settings()
    except ValidationError as refusal:
        # An account that cannot be made is reported by itself: the settings that hold it know less of its variables.
        of_accounts = [line for account in accounts().values() for line in _tried(account)]
        raise SettingsError(of_accounts or _complaints(refusal, PREFIX)) from None
    lacking = lacking_for_crew(settings, with_keys=with_keys)
    if lacking:
        raise SettingsError(lacking)
    if settings.heartbeat_s * 2 > settings.lease_s:
        raise SettingsError(
            [f"{PREFIX}HEARTBEAT_S={settings.heartbeat_s:g}: expected at most half of LEASE_S={settings.lease_s:g}"]
        )
    return settings


def variable(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return f"{PREFIX}{field}".upper()


def variables() -> frozenset[str]:
    """Every variable that is a setting."""
    engines = accounts()
    plain = {variable(name) for name in Settings.model_fields if name not in engines}
    return frozenset(
        plain | {variable(f"{name}_{field}") for name, account in engines.items() for field in account.model_fields}
    )


def accounts() -> dict[str, type[Account]]:
    """The kinds of account, by the engine's name."""
    return {name: field.annotation for name, field in Settings.model_fields.items() if _is_account(field.annotation)}


def misspelt(environ: Mapping[str, object]) -> dict[str, str]:
    """Variables that nearly are a setting, each with the setting that it is like.

    Other unknown `MOLTPIPE_*` variables are left alone: tools around us set their own.
    """
    known = variables() | _SET_FOR_CHILDREN
    bare = {name.removeprefix(PREFIX): name for name in known}
    found = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in known:
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1, cutoff=_TYPO_LIKENESS)
        if near:
            found[name] = bare[near[0]]
    return found


def secrets_dir() -> Path | None:
    """The folder that files of secrets are read from; None when there is none."""
    named = os.environ.get(variable("secrets_dir"))
    if named:
        return Path(named)
    return _USUAL_SECRETS_DIR if _USUAL_SECRETS_DIR.is_dir() else None


def secret_files() -> dict[str, Path]:
    """The files in the folder of secrets that are meant as settings of ours, by the variable that each stands for."""
    folder = secrets_dir()
    if folder is None or not folder.is_dir():
        return {}
    return {file.name.upper(): file for file in sorted(folder.iterdir()) if file.name.upper().startswith(PREFIX)}


def _unusable_files() -> list[str]:
    """What is wrong with the folder of secrets itself."""
    folder = secrets_dir()
    if folder is not None and not folder.is_dir():
        return [f"{variable('secrets_dir')}={folder}: expected a folder"]
    files = secret_files()
    typos = misspelt(files)
    lines = [f"{files[name]} is not a setting: did you mean {meant.lower()}?" for name, meant in typos.items()]
    return lines + [
        f"{name}: {file} cannot be read by this process (user {os.geteuid()})"
        for name, file in files.items()
        if name in variables() and not os.access(file, os.R_OK)
    ]


def _is_account(annotation: object) -> TypeGuard[type[Account]]:
    return isinstance(annotation, type) and issubclass(annotation, Account)


def lacking_for_crew(settings: Settings, *, with_keys: bool = True) -> list[str]:
    """What the chosen engines cannot do without and the environment does not give, a line each."""
    chosen = {
        "screenwriter": settings.screenwriter,
        "voice": settings.voice,
        "camera": settings.camera,
        "composer": settings.composer,
    }
    if settings.camera == "heygen":
        chosen["second_camera"] = settings.second_camera
    return [
        f"{missing}, as {variable(role)}={engine}"
        for role, engine in chosen.items()
        if (missing := settings.lacking(engine, with_key=with_keys)) is not None
    ]


def _tried(kind: type[BaseSettings]) -> list[str]:
    """What is wrong with the variables of one kind of account."""
    try:
        kind()
    except ValidationError as refusal:
        return _complaints(refusal, kind.model_config.get("env_prefix", PREFIX))
    return []


def _complaints(refusal: ValidationError, prefix: str) -> list[str]:
    files = secret_files()
    lines = []
    for error in refusal.errors(include_url=False):
        field = str(error["loc"][0])
        name = f"{prefix}{field}".upper()
        said = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
        if not os.environ.get(name) and name in files:
            lines.append(f"{name} from {files[name]}: {said}")
            continue
        came = "(hidden)" if field in _SECRETS else repr(os.environ.get(name, ""))
        lines.append(f"{name}={came}: {said}")
    return list(dict.fromkeys(lines))
