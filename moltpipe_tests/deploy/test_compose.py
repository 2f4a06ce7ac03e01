"""The compose file: valid, closed, and in agreement with everything that it names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic_settings import BaseSettings

from moltpipe.runtime.environment import environment
from moltpipe.runtime.s3 import binary
from moltpipe.runtime.services import services
from moltpipe.settings import Settings, accounts, load_settings, misspelt, variable, variables
from moltpipe_tests.deploy.conftest import DEPLOY
from moltpipe_tests.deploy.processes import Answers, free_ports, running

FOLDER = DEPLOY / "compose"
DAGSTERS = ("dagster", "dagster-webserver", "dagster-daemon")


def expanded(text: str, **chosen: str) -> str:
    """With what is chosen for Compose's variables in their places, or else their defaults."""
    return re.sub(r"\$\{(\w+):-([^}]*)}", lambda found: chosen.get(found[1], found[2]), text)


COMPOSE: dict[str, Any] = yaml.safe_load(expanded((FOLDER / "compose.yaml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if one["image"] == COMPOSE["x-image"]}
EXAMPLE = re.findall(r"^#?([A-Z_]+)=(.*)$", (FOLDER / ".env.example").read_text(), re.MULTILINE)


def secrets_of(service: dict[str, Any]) -> dict[str, str]:
    """What a service is given: name in the container, name in the folder."""
    given = [{"source": one} if isinstance(one, str) else one for one in service.get("secrets", [])]
    return {one.get("target", one["source"]): one["source"] for one in given}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, as the script makes it."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    make_secrets(folder)
    return folder


def make_secrets(folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [FOLDER / "make-secrets", folder], env={"PATH": path}, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_it_keeps_to_the_compose_specification() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    command: list[str | Path] = [program, "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_docker_reads_it_as_well(secrets: Path) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no `docker compose` here")
    assert secrets.is_dir()
    subprocess.run([docker, "compose", "--file", FOLDER / "compose.yaml", "config", "--quiet"], check=True)


def test_every_image_is_pinned_and_ours_is_the_one_that_dagster_is_told_of() -> None:
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[\w./-]+:\d[\w.-]*", service["image"]), name
    assert {service["environment"]["DAGSTER_CURRENT_IMAGE"] for service in OURS.values() if "env_file" in service} == {
        COMPOSE["x-image"]
    }
    assert OURS["migrate"]["build"]["dockerfile"] == str((DEPLOY / "docker" / "Dockerfile").relative_to(DEPLOY.parent))
    assert (FOLDER / OURS["migrate"]["build"]["context"]).resolve() == DEPLOY.parent


def test_nothing_is_published_beyond_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"proxy", "metrics"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_the_stores_are_reached_by_the_studio_alone() -> None:
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    for name in ("postgres", "s3", "redis"):
        assert set(SERVICES[name]["networks"]) <= internal
    assert "data" not in SERVICES["proxy"]["networks"]
    assert {name for name, service in SERVICES.items() if "data" in service["networks"]} == set(SERVICES) - {"proxy"}


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_closed_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["pids_limit"] > 0
    if service["restart"] != "no":
        assert service["mem_limit"]
        assert "healthcheck" in service or name in ("proxy", "webhooks", "worker")
    # Caddy's image has no other user, and nothing but the port's capability.
    if name == "proxy":
        assert service["cap_add"] == ["NET_BIND_SERVICE"]
    else:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
        assert "cap_add" not in service


def test_what_is_waited_for_can_happen() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert SERVICES[name]["restart"] == "no"
    # The tables are there before anything opens them.
    for name, service in OURS.items():
        if name not in ("migrate", "s3"):
            assert "migrate" in service["depends_on"] or "code-server" in service["depends_on"]


def test_every_variable_of_ours_is_a_setting_and_none_is_a_secret() -> None:
    named = {name for service in OURS.values() for name in service.get("environment", {})} | {
        name for name, _ in EXAMPLE
    }
    assert {name for name in named if name.startswith("MOLTPIPE_")} <= variables()
    assert misspelt(dict.fromkeys(named, "")) == {}
    secret = {variable(name) for name in secret_settings()}
    for service in SERVICES.values():
        assert not secret & set(service.get("environment", {}))
        assert not [name for name in service.get("environment", {}) if re.search(r"PASSWORD$|_KEY$|_SECRET$", name)]


def test_every_variable_of_the_example_is_used() -> None:
    used = {
        name
        for file in ("compose.yaml", "own-stores.yaml")
        for name in re.findall(r"\$\{(\w+):[-?]", (FOLDER / file).read_text())
    }
    assert {name for name, _ in EXAMPLE if not name.startswith("MOLTPIPE_")} <= used


class _Override(yaml.SafeLoader):
    """Compose's two tags of a file that is laid over another: what stands there counts alone, or nothing does."""


def _alone(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


_Override.add_constructor("!override", _alone)
_Override.add_constructor("!reset", lambda _loader, _node: {})


def test_with_stores_of_ones_own_nobody_waits_for_ours_or_is_told_of_them() -> None:
    over = yaml.load((FOLDER / "own-stores.yaml").read_text(), _Override)  # noqa: S506 - a safe one with two tags
    left_out = {name for name, one in over["services"].items() if "profiles" in one}
    assert left_out == {"postgres", "roles", "s3"}
    for name in set(SERVICES) - left_out:
        waits_for = over["services"].get(name, {}).get("depends_on", SERVICES[name].get("depends_on", {}))
        assert not left_out & set(waits_for), name
        assert set(waits_for) <= set(SERVICES)
    told = {"MOLTPIPE_S3_ENDPOINT_URL", "MOLTPIPE_S3_BUCKET", "MOLTPIPE_MEDIA_URL", "AWS_REGION"}
    for name in set(OURS) - left_out:
        assert over["services"][name]["environment"].keys() == told
        assert set(OURS[name]["networks"]) & set(over["networks"])
    assert over["networks"] == {"data": {"internal": False}}


def secret_settings() -> set[str]:
    """The fields of settings and accounts whose value must not be seen."""
    kinds: dict[str, type[BaseSettings]] = {"": Settings}
    kinds |= {f"{engine}_": account for engine, account in accounts().items()}
    hidden = {
        f"{prefix}{name}"
        for prefix, kind in kinds.items()
        for name, field in kind.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }
    return hidden | {"alert_urls"}


def test_every_secret_setting_is_a_file_for_those_who_call_the_engines() -> None:
    wanted = {variable(name).lower() for name in secret_settings()}
    for name in ("code-server", "worker"):
        given = {target for target in secrets_of(SERVICES[name]) if target.startswith("moltpipe_")}
        assert given == wanted


def test_keys_of_engines_are_given_to_nobody_else() -> None:
    for name in set(SERVICES) - {"code-server", "worker"}:
        assert not [target for target in secrets_of(SERVICES[name]) if target.endswith("_api_key")]


def test_only_the_migration_knows_the_owner() -> None:
    urls = {
        name: secrets_of(service)["moltpipe_database_url"]
        for name, service in SERVICES.items()
        if "moltpipe_database_url" in secrets_of(service)
    }
    assert {name for name, url in urls.items() if url == "owner_database_url"} == {"migrate"}
    assert {name for name, url in urls.items() if url == "read_database_url"} == {"metrics"}
    assert set(urls) == set(OURS) - {"s3"}


def test_secrets_and_files_are_declared_used_and_there(secrets: Path) -> None:
    declared = {name: FOLDER / one["file"] for name, one in COMPOSE["secrets"].items()}
    assert {source for service in SERVICES.values() for source in secrets_of(service).values()} == set(declared)
    assert {path.name for path in secrets.iterdir()} == {path.name for path in declared.values()}
    assert {path.parent.name for path in declared.values()} == {"secrets"}
    assert all(name == path.name for name, path in declared.items())
    used = {one["source"] for service in SERVICES.values() for one in service.get("configs", [])}
    assert used == set(COMPOSE["configs"])
    assert all((FOLDER / one["file"]).is_file() for one in COMPOSE["configs"].values())
    volumes = {one.partition(":")[0] for service in SERVICES.values() for one in service.get("volumes", [])}
    assert volumes == set(COMPOSE["volumes"])
    networks = {one for service in SERVICES.values() for one in service["networks"]}
    assert networks == set(COMPOSE["networks"])


def test_a_path_under_run_secrets_is_a_secret_that_the_service_has() -> None:
    for name, service in SERVICES.items():
        words = json.dumps([service.get("command"), service.get("environment")])
        for path in re.findall(r"/run/secrets/(\w+)", words):
            assert path in secrets_of(service) or path == "aws_credentials", name
    for name, service in OURS.items():
        if "env_file" in service and name not in ("migrate", "metrics", "webhooks"):
            assert "aws_credentials" in secrets_of(service)


def test_the_workspace_is_where_the_code_server_listens() -> None:
    workspace = yaml.safe_load((FOLDER / "workspace.yaml").read_text())
    (entry,) = (one["grpc_server"] for one in workspace["load_from"])
    command = SERVICES[entry["host"]]["command"]
    assert command[command.index("--port") + 1] == str(entry["port"])
    assert command[command.index("--location-name") + 1] == entry["location_name"]
    for name in ("webserver", "webserver-readonly", "daemon"):
        command = SERVICES[name]["command"]
        path = command[command.index("--workspace") + 1]
        assert path in [one["target"] for one in SERVICES[name]["configs"] if one["source"] == "workspace"]


def test_the_proxy_knows_where_each_service_listens_and_can_reach_it() -> None:
    proxy = SERVICES["proxy"]
    asked = set(re.findall(r"\{\$(\w+)", (DEPLOY / "proxy" / "Caddyfile").read_text()))
    assert set(proxy["environment"]) <= asked
    addresses = {name: proxy["environment"][name] for name in ("WEBSERVER", "WEBSERVER_READONLY", "WEBHOOKS", "MEDIA")}
    endpoint = OURS["code-server"]["environment"]["MOLTPIPE_S3_ENDPOINT_URL"]
    assert endpoint == f"http://{addresses['MEDIA']}"
    for address in addresses.values():
        host, _, port = address.partition(":")
        assert f"--port {port}" in " ".join(SERVICES[host]["command"]).replace("-s3.port=", "--port "), address
        assert set(SERVICES[host]["networks"]) & set(proxy["networks"]), address


def test_dagsters_programs_get_their_environment_from_the_entrypoint() -> None:
    for service in OURS.values():
        if service.get("command", [""])[0] in DAGSTERS:
            assert "entrypoint" not in service
        health = service.get("healthcheck", {}).get("test", [])
        if "dagster-daemon" in health:
            assert health[1:4] == ["moltpipe", "exec", "--"]


def _commands() -> Iterator[tuple[str, list[str]]]:
    for name, service in OURS.items():
        if name == "s3":
            continue
        yield name, [*service.get("entrypoint", []), *service["command"]]
        health = service.get("healthcheck", {}).get("test", ["CMD", "python"])[1:]
        if health[0] != "python":
            yield f"health of {name}", health[3:] if health[0] == "moltpipe" else health


COMMANDS = dict(_commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_its_options_are_known(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = COMMANDS[name]
    if words[0] == "python":
        asked = subprocess.run([sys.executable, *words[1:], "--help"], capture_output=True, text=True, check=False)
        assert asked.returncode == 0, f"{name}: {asked.stderr}"
        return
    (program,) = entry_points(group="console_scripts", name=words[0])
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    with pytest.raises(SystemExit) as ended:
        program.load()()
    assert ended.value.code in (0, None), f"{name}: {capsys.readouterr().err}"


def test_secrets_are_made_once_and_closed_to_others(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    assert make_secrets(secrets) == ""
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o444}
    assert before["app_password"] in before["app_database_url"]
    assert len({before[f"{role}_password"] for role in ("postgres", "owner", "app", "read")}) == 4


def test_a_password_is_changed_by_removing_its_files(secrets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    shutil.copytree(secrets, folder)
    for name in ("app_password", "app_database_url"):
        (folder / name).unlink()
    make_secrets(folder)
    changed = {path.name for path in folder.iterdir() if path.read_text() != (secrets / path.name).read_text()}
    assert changed == {"app_password", "app_database_url"}


@pytest.mark.parametrize("launcher", ["local", "celery"])
@pytest.mark.parametrize("name", [name for name in OURS if name != "s3"])
def test_every_service_has_what_it_cannot_start_without(
    name: str, launcher: str, secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = yaml.safe_load(expanded((FOLDER / "compose.yaml").read_text(), LAUNCHER=launcher))["services"][name]
    for target, source in secrets_of(service).items():
        shutil.copy(secrets / source, tmp_path / target)
    for one in variables():
        monkeypatch.delenv(one, raising=False)
    for one, value in service["environment"].items():
        monkeypatch.setenv(one, value)
    monkeypatch.setenv("MOLTPIPE_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("MOLTPIPE_DATA_DIR", str(tmp_path / "data"))
    settings = load_settings(with_keys=False)
    with services(settings) as held:
        assert environment(settings, held)["PGHOST"] == "postgres"


@pytest.mark.parametrize("password", ["p@ss/word", "per%cent", "two words", "", "ü"])
def test_a_password_of_ones_own_that_would_break_its_address_is_refused(tmp_path: Path, password: str) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "app_password").write_text(password)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        make_secrets(folder)
    assert "app_password" in refused.value.stderr
    assert not (folder / "app_database_url").exists()


def test_a_setting_in_a_file_that_the_script_made_can_be_used(secrets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run-secrets"
    folder.mkdir()
    for target, source in secrets_of(SERVICES["code-server"]).items():
        shutil.copy(secrets / source, folder / target)
    with pytest.MonkeyPatch.context() as patch:
        for name in variables():
            patch.delenv(name, raising=False)
        patch.setenv("MOLTPIPE_SECRETS_DIR", str(folder))
        settings = Settings()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value().startswith("postgresql://moltpipe_app:")
    assert settings.veo.api_key is None


@pytest.fixture(scope="module")
def object_store(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service `s3`, by its own command line with ports of the test's own."""
    folder = tmp_path_factory.mktemp("store")
    names = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "admin",
             "admin.grpc")  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    ours = [f"-{name.removesuffix('.grpc')}.port{'.grpc' if 'grpc' in name else ''}={ports[name]}" for name in names]
    service = SERVICES["s3"]
    kept = [word for word in service["command"] if not word.startswith("-s3.port=")]
    words = [
        word.replace("/var/lib/store", str(folder))
        .replace("/run/secrets", str(secrets))
        .replace("-ip.bind=0.0.0.0", "-ip.bind=127.0.0.1")
        for word in kept
    ]
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **service["environment"]}
    address = f"http://127.0.0.1:{ports['s3']}"
    sockets = [f"-s3.localSocket={folder}/s3.sock", f"-filer.localSocket={folder}/filer.sock"]
    # As its health check has it: it listens a moment before it has made its bucket.
    ready = Answers(f"{address}/moltpipe/episodes/none", says="NoSuchKey")
    with running([str(binary()), *words, *ours, *sockets], environ, folder / "log", until=ready):
        yield address


def test_the_store_makes_the_bucket_and_lets_the_studio_in_and_nobody_to_what_is_not_shown(
    object_store: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets / "aws_credentials"))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    studio = boto3.session.Session().client("s3", endpoint_url=object_store, region_name="us-east-1", config=config)
    for key in ("episodes/a/variant-1.mp4", "compute-logs/a"):
        studio.put_object(Bucket="moltpipe", Key=key, Body=b"x")
    studio.delete_objects(Bucket="moltpipe", Delete={"Objects": [{"Key": "takes/none"}]})
    assert studio.list_objects_v2(Bucket="moltpipe")["KeyCount"] == 2
    with pytest.raises(ClientError, match="AccessDenied"):
        studio.delete_bucket(Bucket="moltpipe")
    with pytest.raises(ClientError, match="AccessDenied"):
        studio.create_bucket(Bucket="another")
    with pytest.raises(ClientError, match="AccessDenied"):
        studio.put_bucket_policy(Bucket="moltpipe", Policy="{}")

    def seen(path: str) -> int:
        return httpx.get(f"{object_store}/moltpipe/{path}", trust_env=False).status_code

    assert seen("episodes/a/variant-1.mp4") == 200
    assert [seen(path) for path in ("compute-logs/a", "", "?list-type=2&prefix=episodes/")] == [403, 403, 403]
    assert httpx.put(f"{object_store}/moltpipe/episodes/a/new.mp4", content=b"x", trust_env=False).status_code == 403
