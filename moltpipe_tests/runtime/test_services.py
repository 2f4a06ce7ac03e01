from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
import psycopg
import pytest
from botocore.config import Config
from pydantic import SecretStr

from moltpipe.runtime.background import ServiceError
from moltpipe.runtime.locks import FileLock
from moltpipe.runtime.s3 import knows_its_volumes
from moltpipe.runtime.services import Services, mend, services
from moltpipe.settings import Settings
from moltpipe_tests.runtime.living import alive


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # Blanks, and longer than a Unix socket's name can be.
    folder = tmp_path / ("a folder with blanks " + "x" * 120)
    folder.mkdir(mode=0o700)
    return Settings(data_dir=folder / "data", database_url=None, s3_endpoint_url=None)


def _client(held: Services) -> Any:  # noqa: ANN401 - boto3's clients are made at run time
    assert held.s3.secret_key is not None
    return boto3.client(
        "s3",
        endpoint_url=held.s3.endpoint_url,
        region_name=held.s3.region,
        aws_access_key_id=held.s3.access_key,
        aws_secret_access_key=held.s3.secret_key.get_secret_value(),
        # Whoever holds the services may use them at once: nothing is smoothed over by asking again.
        config=Config(retries={"total_max_attempts": 1, "mode": "standard"}),
    )


def _write(held: Services, settings: Settings) -> None:
    with psycopg.connect(held.database_url.get_secret_value()) as db:
        db.execute("CREATE TABLE kept (word text)")
        db.execute("INSERT INTO kept VALUES ('here')")
    _client(held).put_object(Bucket=settings.s3_bucket, Key="kept", Body=b"here")


def _assert_written(held: Services, settings: Settings) -> None:
    with psycopg.connect(held.database_url.get_secret_value()) as db:
        assert db.execute("SELECT word FROM kept").fetchone() == ("here",)
    assert _client(held).get_object(Bucket=settings.s3_bucket, Key="kept")["Body"].read() == b"here"


def _remembered(settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((settings.data_dir / "services.json").read_text())
    return found


def _sockets() -> list[Path]:
    return list(Path("/tmp").glob("seaweedfs-*.sock"))  # noqa: S108 - where SeaweedFS puts them


def _kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.kill()
    process.wait(10)


_HOLDER = """
import sys
from pathlib import Path
from moltpipe.runtime.services import services
from moltpipe.settings import Settings
with services(Settings(data_dir=Path(sys.argv[1]), database_url=None, s3_endpoint_url=None)) as held:
    print(held.database_url.get_secret_value(), held.s3.endpoint_url, flush=True)
    sys.stdin.read()
"""


def _holder(settings: Settings) -> subprocess.Popen[str]:
    """Another process that holds the services until its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(settings.data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _addresses(holder: subprocess.Popen[str]) -> list[str]:
    assert holder.stdout is not None
    return holder.stdout.readline().split()


def test_what_was_written_is_there_after_a_stop_at_the_same_address(settings: Settings) -> None:
    before = set(_sockets())
    with services(settings) as first:
        _write(first, settings)
        pids = [_remembered(settings)[name]["pid"] for name in ("postgres", "s3")]
    assert not any(alive(pid) for pid in pids)
    ports = _remembered(settings)["s3"]["ports"].values()
    # A killed one of another day may have left its own, under a port that is ours today.
    assert not [path for path in set(_sockets()) - before if any(path.stem.endswith(f"-{port}") for port in ports)]
    with services(settings) as second:
        assert second == first
        _assert_written(second, settings)


def test_what_was_written_is_there_after_everything_was_killed(settings: Settings) -> None:
    holder = _holder(settings)
    _addresses(holder)
    with services(settings) as held:
        _write(held, settings)
        holder.kill()
        holder.communicate()
        for name in ("postgres", "s3"):
            _kill(_remembered(settings)[name]["pid"])
    with services(settings) as again:
        _assert_written(again, settings)


def test_after_a_kill_the_very_first_look_at_an_object_finds_it(settings: Settings) -> None:
    with services(settings) as held:
        _write(held, settings)
        client = _client(held)
        for _ in range(3):
            _kill(_remembered(settings)["s3"]["pid"])
            mend(settings)
            assert client.get_object(Bucket=settings.s3_bucket, Key="kept")["Body"].read() == b"here"


_MASTER_ALONE: dict[str, Any] = {"Volumes": {"DataCenters": {}, "Free": 0, "Max": 0}}


def _master_with(*volumes: int) -> dict[str, Any]:
    listed = [{"Id": volume, "Collection": "moltpipe"} for volume in volumes]
    return {"Volumes": {"DataCenters": {"DefaultDataCenter": {"DefaultRack": {"moltpipe": listed}}}}}


@pytest.mark.parametrize(
    ("master", "held", "ready"),
    [
        (_MASTER_ALONE, None, False),
        (_MASTER_ALONE, [{"Id": 1}], False),
        (_master_with(), None, True),
        (_master_with(1), [{"Id": 1}, {"Id": 2}], False),
        (_master_with(1, 2), [{"Id": 1}, {"Id": 2}], True),
    ],
)
def test_s3_is_ready_once_its_master_knows_every_volume(
    master: dict[str, Any], held: list[dict[str, Any]] | None, *, ready: bool
) -> None:
    assert knows_its_volumes(master, {"Volumes": held}) is ready


@pytest.mark.parametrize("name", ["postgres", "s3"])
def test_a_service_that_was_killed_comes_back_while_it_is_held(settings: Settings, name: str) -> None:
    with services(settings) as held:
        _write(held, settings)
        before = _remembered(settings)
        _kill(before[name]["pid"])
        assert mend(settings) == held
        after = _remembered(settings)
        other = {"postgres": "s3", "s3": "postgres"}[name]
        assert after[name]["pid"] != before[name]["pid"]
        assert after[other]["pid"] == before[other]["pid"]
        _assert_written(held, settings)


def test_services_outlive_a_killed_holder_and_the_next_one_joins_them(settings: Settings) -> None:
    holder = _holder(settings)
    addresses = _addresses(holder)
    before = _remembered(settings)
    holder.kill()
    holder.communicate()
    with services(settings) as held:
        assert [held.database_url.get_secret_value(), held.s3.endpoint_url] == addresses
        assert _remembered(settings) == before
    assert not alive(before["postgres"]["pid"])


def test_two_that_start_at_once_share_one_pair(settings: Settings) -> None:
    holders = [_holder(settings), _holder(settings)]
    first, second = (_addresses(holder) for holder in holders)
    assert first == second
    pids = [_remembered(settings)[name]["pid"] for name in ("postgres", "s3")]
    holders[0].communicate()
    assert all(alive(pid) for pid in pids), "the first to leave took the services with it"
    holders[1].communicate()
    assert not any(alive(pid) for pid in pids), "the last to leave left the services behind"
    assert [holder.returncode for holder in holders] == [0, 0]


def test_a_port_that_was_taken_meanwhile_is_replaced(settings: Settings) -> None:
    with services(settings) as first:
        _write(first, settings)
        remembered = _remembered(settings)
    with socket.socket() as one, socket.socket() as other:
        for taken in (one, other):
            # Old connections of the services linger on these ports.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", remembered["postgres"]["port"]))
        other.bind(("127.0.0.1", remembered["s3"]["ports"]["filer"]))
        one.listen()
        other.listen()
        with services(settings) as second:
            assert second.database_url != first.database_url
            assert second.s3.endpoint_url != first.s3.endpoint_url
            _assert_written(second, settings)


def test_a_stale_pid_that_is_another_program_now_is_left_alone(settings: Settings) -> None:
    with services(settings) as held:
        _write(held, settings)
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        remembered = _remembered(settings)
        for name in ("postgres", "s3"):
            remembered[name] |= {"pid": bystander.pid, "ready": True}
        (settings.data_dir / "services.json").write_text(json.dumps(remembered))
        stale = settings.data_dir / "postgres" / "postmaster.pid"
        stale.write_text(f"{bystander.pid}\n{settings.data_dir}/postgres\n1\n5432\n\n127.0.0.1\n0 0\nready\n")
        with services(settings) as again:
            _assert_written(again, settings)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_lost_credentials_are_replaced_and_the_data_stays(settings: Settings) -> None:
    with services(settings) as first:
        _write(first, settings)
    (settings.data_dir / "services.json").unlink()
    with services(settings) as second:
        assert second.database_url != first.database_url
        _assert_written(second, settings)


def test_lost_credentials_of_running_services_are_replaced_too(settings: Settings) -> None:
    holder = _holder(settings)
    _addresses(holder)
    (settings.data_dir / "services.json").write_text("{spoilt")
    with services(settings) as held:
        _write(held, settings)
        _assert_written(held, settings)
    holder.communicate()
    assert holder.returncode == 0


def test_nobody_gets_in_without_the_credentials(settings: Settings) -> None:
    with services(settings) as held:
        _write(held, settings)
        url = held.database_url.get_secret_value()
        password = _remembered(settings)["postgres"]["password"]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace(f":{password}@", ":wrong@"))
        assert httpx.get(f"{held.s3.endpoint_url}/{settings.s3_bucket}/kept").status_code == 403
        filer = _remembered(settings)["s3"]["ports"]["filer"]
        for method in ("GET", "PUT", "DELETE"):
            path = f"http://127.0.0.1:{filer}/buckets/{settings.s3_bucket}/kept"
            assert httpx.request(method, path).status_code == 401


def test_everything_listens_on_loopback_alone(settings: Settings) -> None:
    with services(settings):
        for name in ("postgres", "s3"):
            process = psutil.Process(_remembered(settings)[name]["pid"])
            listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            assert listening
            assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_two_folders_do_not_disturb_each_other(settings: Settings, tmp_path: Path) -> None:
    other = settings.model_copy(update={"data_dir": tmp_path / "other"})
    with services(settings) as one, services(other) as two:
        assert one.database_url != two.database_url
        _write(one, settings)
        assert _client(two).list_objects_v2(Bucket=other.s3_bucket)["KeyCount"] == 0


def test_secrets_and_data_are_closed_to_others_and_folders_above_stay_as_they_were(settings: Settings) -> None:
    with services(settings):
        for name in ("services.json", "s3.identities.json"):
            assert stat.S_IMODE((settings.data_dir / name).stat().st_mode) == 0o600
        for name in (".", "postgres", "s3"):
            assert stat.S_IMODE((settings.data_dir / name).stat().st_mode) == 0o700
        assert stat.S_IMODE(settings.data_dir.parent.stat().st_mode) == 0o700


def test_urls_in_the_settings_are_used_and_nothing_is_started(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=SecretStr("postgresql://me@db.example/prod"),
        s3_endpoint_url="https://s3.example",
    )
    with services(settings) as held:
        assert held.database_url.get_secret_value() == "postgresql://me@db.example/prod"
        assert held.s3.endpoint_url == "https://s3.example"
        assert held.embedded == frozenset()
        assert not settings.data_dir.exists()


def test_only_what_has_no_url_is_started(settings: Settings) -> None:
    with services(settings.model_copy(update={"s3_endpoint_url": "https://s3.example"})) as held:
        assert held.embedded == {"postgres"}
        psycopg.connect(held.database_url.get_secret_value()).close()
        assert not (settings.data_dir / "s3").exists()


def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log(settings: Settings) -> None:
    with services(settings):
        pass
    (settings.data_dir / "postgres" / "postgresql.conf").write_text("no_such_option = 1\n")
    with pytest.raises(ServiceError) as refusal, services(settings):
        pass
    assert str(settings.data_dir / "logs" / "postgres.log") in str(refusal.value)
    assert "no_such_option" in str(refusal.value)


def test_data_of_another_version_is_refused_and_left_as_it_is(settings: Settings) -> None:
    with services(settings):
        pass
    version = settings.data_dir / "postgres" / "PG_VERSION"
    version.write_text("15\n")
    with pytest.raises(ServiceError, match="made by PostgreSQL 15"), services(settings):
        pass
    assert version.read_text() == "15\n"


def test_data_that_somebody_unseen_holds_is_not_opened(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from another container: the lock is held, and no process here is the one that holds it."""
    monkeypatch.setattr("moltpipe.runtime.background._DYING_S", 0.2)
    settings.data_dir.mkdir()
    with FileLock(settings.data_dir / "postgres.lock") as unseen:
        unseen.take()
        with pytest.raises(ServiceError, match="another container"), services(settings):
            pass


def test_ctrl_c_at_the_terminal_does_not_reach_the_services(settings: Settings) -> None:
    with services(settings):
        ours = os.getsid(0)
        sessions = {os.getsid(_remembered(settings)[name]["pid"]) for name in ("postgres", "s3")}
        assert ours not in sessions
        assert len(sessions) == 2


def test_a_bucket_that_was_not_there_yet_is_made_for_the_one_who_joins(settings: Settings) -> None:
    with services(settings), services(settings.model_copy(update={"s3_bucket": "another"})) as joined:
        names = {bucket["Name"] for bucket in _client(joined).list_buckets()["Buckets"]}
        assert {"moltpipe", "another"} <= names


def test_a_postgres_whose_server_alone_was_killed_is_taken_over_when_its_children_are_gone(settings: Settings) -> None:
    with services(settings) as held:
        _write(held, settings)
        with psycopg.connect(held.database_url.get_secret_value()):
            _kill(_remembered(settings)["postgres"]["pid"])
            assert mend(settings) == held
        _assert_written(held, settings)
