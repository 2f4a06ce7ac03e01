"""A real server on loopback, over real HTTP, in front of a real inbox."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import select

from moltpipe.ledger.database import Database
from moltpipe.ledger.inbox import external_id_of
from moltpipe.ledger.schema import provider_events
from moltpipe.runtime.stack import PortTakenError
from moltpipe.runtime.webhooks import MAX_BODY_BYTES, introduction, receivers, serving, webhooks_app
from moltpipe.settings import HeygenAccount, ReplicateAccount, Settings, SettingsError, variables
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import serving as serving_fakes

KEY = b"0123456789abcdef0123456789abcdef"
REPLICATES = "whsec_" + base64.b64encode(KEY).decode()
HEYGENS = "whsec_of_heygen"

Start = Callable[..., str]


def settings_with(replicates: str | None = REPLICATES, heygens: str | None = HEYGENS, **other: Any) -> Settings:  # noqa: ANN401 - any field of the settings
    return Settings(
        replicate=ReplicateAccount(webhook_secret=SecretStr(replicates) if replicates else None),
        heygen=HeygenAccount(webhook_secret=SecretStr(heygens) if heygens else None),
        **other,
    )


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def start(database: Database, said: list[str]) -> Iterator[Start]:
    """Serves with these settings and gives the address."""
    with ExitStack() as servers:

        def serve(settings: Settings | None = None, *, inbox: Database = database, **other: Any) -> str:  # noqa: ANN401 - parameters of the application
            app = webhooks_app(receivers(settings or settings_with()), inbox, said.append, **other)
            return servers.enter_context(serving(app, "127.0.0.1", 0))

        yield serve


@pytest.fixture
def url(start: Start) -> str:
    return start()


def prediction(job: str = "p1", status: str = "succeeded", **other: object) -> bytes:
    return json.dumps({"id": job, "status": status, "output": "https://cdn.example/x.mp4?sig=1", **other}).encode()


def signed(body: bytes, *, event_id: str = "msg_1", age_s: float = 0, key: bytes = KEY) -> dict[str, str]:
    timestamp = str(int(time.time() - age_s))
    digest = hmac.digest(key, f"{event_id}.{timestamp}.".encode() + body, "sha256")
    signature = "v1," + base64.b64encode(digest).decode()
    return {"webhook-id": event_id, "webhook-timestamp": timestamp, "webhook-signature": signature}


def video(kind: str = "avatar_video.success", **told: object) -> bytes:
    return json.dumps({"event_type": kind, "event_data": {"video_id": "v1", "url": "https://x?sig=1", **told}}).encode()


def signed_by_heygen(body: bytes, *, shared: str = HEYGENS) -> dict[str, str]:
    return {
        "Heygen-Signature": hmac.new(shared.encode(), body, hashlib.sha256).hexdigest(),
        "Heygen-Timestamp": str(int(time.time())),
        "Heygen-Event-Id": f"evt_{uuid4().hex}",
    }


def post(url: str, body: bytes, headers: dict[str, str], **query: str) -> httpx.Response:
    return httpx.post(url, content=body, headers=headers, params=query, trust_env=False, timeout=20)


def inbox(database: Database) -> list[tuple[object, ...]]:
    columns = provider_events.c
    with database.begin() as db:
        rows = db.execute(
            select(columns.provider, columns.event_id, columns.external_id, columns.call_id, columns.status)
            .order_by(columns.received_at)
        )  # fmt: skip
        return [tuple(row) for row in rows]


def test_a_prediction_that_is_done_gets_into_the_inbox(url: str, database: Database) -> None:
    call, body = uuid4(), prediction()
    answer = post(f"{url}/replicate", body, signed(body), call=str(call))
    assert (answer.status_code, answer.json()) == (200, {"recorded": True})
    assert inbox(database) == [("replicate", "msg_1", "p1", call, "succeeded")]


def test_a_video_that_is_done_gets_into_the_inbox(url: str, database: Database) -> None:
    call = uuid4()
    body = video(callback_id=str(call))
    assert post(f"{url}/heygen", body, signed_by_heygen(body)).status_code == 200
    assert inbox(database) == [("heygen", "avatar_video.success:v1", "v1", call, "avatar_video.success")]


def test_the_same_event_twice_is_one_row(url: str, database: Database) -> None:
    told, shown = prediction(), video()
    first = [post(f"{url}/replicate", told, signed(told)), post(f"{url}/heygen", shown, signed_by_heygen(shown))]
    again = [post(f"{url}/replicate", told, signed(told)), post(f"{url}/heygen", shown, signed_by_heygen(shown))]
    assert [(one.status_code, one.json()["recorded"]) for one in first] == [(200, True)] * 2
    assert [(one.status_code, one.json()["recorded"]) for one in again] == [(200, False)] * 2
    assert len(inbox(database)) == 2


def test_an_event_that_comes_before_its_calls_id_is_kept_with_its_call(url: str, database: Database) -> None:
    call, body = uuid4(), prediction()
    assert post(f"{url}/replicate", body, signed(body), call=str(call)).status_code == 200
    with database.begin() as db:
        assert external_id_of(db, call) == "p1"


def test_nothing_of_the_body_is_kept_but_id_and_status(url: str, database: Database, database_url: str) -> None:
    body = prediction(input={"prompt": "a secret lamp"})
    post(f"{url}/replicate", body, signed(body))
    assert len(inbox(database)) == 1
    with psycopg.connect(database_url) as db:
        row = str(db.execute("SELECT e::text FROM provider_events e").fetchall())
    assert "lamp" not in row
    assert "sig=" not in row


@pytest.mark.parametrize(
    "headers",
    [
        # Made when the test runs: minutes after they were collected, "from the future" would be now.
        dict,
        lambda: signed(prediction(), key=b"another key"),
        lambda: signed(prediction("p2")),
        lambda: signed(prediction(), age_s=6 * 60),
        lambda: signed(prediction(), age_s=-6 * 60),
        lambda: {**signed(prediction()), "webhook-id": "msg_2"},
    ],
    ids=["unsigned", "another key", "a changed body", "too old", "from the future", "replayed under another id"],
)
def test_what_is_not_genuine_is_refused_and_leaves_no_row(
    url: str, database: Database, said: list[str], headers: Callable[[], dict[str, str]]
) -> None:
    assert post(f"{url}/replicate", prediction(), headers()).status_code == 401
    assert inbox(database) == []
    assert len(said) == 1
    assert said[0].startswith("replicate: a webhook was refused (401): ")


def test_a_forged_video_is_refused_and_leaves_no_row(url: str, database: Database) -> None:
    body = video()
    assert post(f"{url}/heygen", body, signed_by_heygen(body, shared="another")).status_code == 401
    assert inbox(database) == []


def test_a_flood_of_forgeries_is_told_once(url: str, said: list[str]) -> None:
    for _ in range(5):
        post(f"{url}/replicate", prediction(), {})
    assert len(said) == 1


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "the body: expected JSON"),
        (b"[]", "the body: expected a JSON object"),
        (b'{"status": "succeeded"}', "id: expected 1 to 200 printable ASCII characters"),
    ],
)
def test_what_is_signed_and_malformed_is_refused_by_its_field(
    url: str, database: Database, body: bytes, error: str
) -> None:
    answer = post(f"{url}/replicate", body, signed(body))
    assert (answer.status_code, answer.json()) == (400, {"error": error})
    assert inbox(database) == []


def test_a_call_that_is_no_uuid_is_refused(url: str, database: Database) -> None:
    body = prediction()
    answer = post(f"{url}/replicate", body, signed(body), call="seven")
    assert (answer.status_code, answer.json()) == (400, {"error": "call: expected a UUID"})
    assert inbox(database) == []


def test_an_event_about_something_else_is_accepted_and_not_kept(url: str, database: Database) -> None:
    body = b'{"event_type": "instant_avatar.success", "event_data": {"avatar_id": "a1"}}'
    answer = post(f"{url}/heygen", body, signed_by_heygen(body))
    assert (answer.status_code, answer.json()) == (200, {"recorded": False})
    assert inbox(database) == []


def test_a_body_with_long_logs_is_read(url: str) -> None:
    body = prediction(logs="x" * (MAX_BODY_BYTES - 1000))
    assert post(f"{url}/replicate", body, signed(body)).status_code == 200


def test_a_body_that_is_too_long_is_refused(url: str, database: Database) -> None:
    body = prediction(logs="x" * MAX_BODY_BYTES)
    announced = exchange(url, f"content-length: {len(body)}", b"")
    chunked = exchange(url, "transfer-encoding: chunked", b"%x\r\n" % len(body) + body)
    for answer in (announced, chunked):
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close" in answer.lower()
    assert inbox(database) == []


def exchange(url: str, header: str, sent: bytes) -> bytes:
    """All that comes back until the server hangs up."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0), timeout=20) as connection:
        connection.sendall(f"POST /replicate HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n".encode() + sent)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_a_body_that_does_not_come_is_not_waited_for(start: Start) -> None:
    url = start(body_within_s=0.2)
    assert exchange(url, "content-length: 100", b"{").startswith(b"HTTP/1.1 408 ")


def test_a_sender_that_hangs_up_disturbs_nobody(url: str, database: Database) -> None:
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0)) as connection:
        connection.sendall(b"POST /replicate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    body = prediction()
    assert post(f"{url}/replicate", body, signed(body)).status_code == 200
    assert len(inbox(database)) == 1


@pytest.mark.parametrize(
    ("path", "name"),
    [("replicate", "MOLTPIPE_REPLICATE_WEBHOOK_SECRET"), ("heygen", "MOLTPIPE_HEYGEN_WEBHOOK_SECRET")],
)
def test_without_a_secret_nothing_gets_in(start: Start, database: Database, path: str, name: str) -> None:
    url = start(settings_with(None, None))
    body = prediction() if path == "replicate" else video()
    headers = signed(body) if path == "replicate" else signed_by_heygen(body)
    answer = post(f"{url}/{path}", body, headers)
    assert (answer.status_code, answer.json()) == (503, {"error": f"{name} is not set"})
    assert inbox(database) == []


def test_heygen_may_ask_whether_anybody_is_there_before_there_is_a_secret(start: Start) -> None:
    answer = httpx.options(f"{start(settings_with(None, None))}/heygen", trust_env=False)
    assert answer.status_code == 200
    assert answer.headers["allow"] == "POST, OPTIONS"


def test_an_unknown_provider_is_not_found(url: str) -> None:
    assert post(f"{url}/veo", b"{}", {}).status_code == 404
    assert httpx.get(f"{url}/replicate", trust_env=False).status_code == 405


def test_who_looks_after_the_server_hears_that_it_lives(url: str) -> None:
    answer = httpx.get(f"{url}/healthz", trust_env=False)
    assert (answer.status_code, answer.json()) == (200, {"ok": True})


def test_while_the_database_is_down_the_provider_is_asked_to_come_again(start: Start, said: list[str]) -> None:
    url = start(inbox=Database("postgresql://molt:password@127.0.0.1:1/moltpipe"))
    body = prediction()
    answer = post(f"{url}/replicate", body, signed(body))
    assert answer.status_code == 503
    assert "127.0.0.1" not in answer.text
    assert said[0].startswith("replicate: PostgreSQL at 127.0.0.1:1 is not available")
    assert "password" not in said[0]


def test_a_delivery_that_found_no_database_is_taken_the_next_time(start: Start, database: Database) -> None:
    body = prediction()
    headers = signed(body)
    away = start(inbox=Database("postgresql://molt@127.0.0.1:1/moltpipe"))
    assert post(f"{away}/replicate", body, headers).status_code == 503
    assert post(f"{start()}/replicate", body, headers).status_code == 200
    assert len(inbox(database)) == 1


def test_a_prediction_is_known_before_its_creation_is_answered(start: Start, database: Database) -> None:
    replicate, call = FakeReplicate(webhook_early=True, webhook_times=2), uuid4()
    url = start(settings_with(replicates=replicate.webhook_secret))
    wanted = {"input": {"prompt": "a lamp"}, "webhook": f"{url}/replicate?call={call}"}
    with serving_fakes(replicate) as base:
        created = httpx.post(
            f"{base}/replicate/v1/models/google/veo-3.1-fast/predictions",
            json=wanted,
            headers={"authorization": "Bearer any"},
            trust_env=False,
            timeout=20,
        )
    assert created.status_code == 201
    assert [status for _, status in replicate.delivered] == [200, 200]
    assert [row[2:] for row in inbox(database)] == [(created.json()["id"], call, "succeeded")]


def test_a_secret_that_cannot_be_one_stops_the_command_with_its_name() -> None:
    with pytest.raises(SettingsError, match=r"^MOLTPIPE_REPLICATE_WEBHOOK_SECRET=\(hidden\): expected whsec_"):
        receivers(settings_with(replicates="whsec_abc"))


def test_a_taken_port_is_refused_with_its_number(database: Database) -> None:
    app = webhooks_app(receivers(settings_with()), database, print)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(port)), serving(app, "127.0.0.1", port):
            pass


def test_the_operator_is_told_what_to_give_to_whom() -> None:
    public = settings_with(webhooks_url="https://molt.example/hooks/", heygens=None)
    assert introduction(public, receivers(public), "http://127.0.0.1:3080") == [
        "webhooks are taken at http://127.0.0.1:3080 (Ctrl-C ends it)",
        "https://molt.example/hooks/replicate?call=… goes along with every prediction: nothing to register",
        "https://molt.example/hooks/heygen refuses everything: MOLTPIPE_HEYGEN_WEBHOOK_SECRET is not set",
    ]
    local = settings_with()
    assert introduction(local, receivers(local), "http://[::1]:7")[1:] == [
        "MOLTPIPE_WEBHOOKS_URL is not set: no provider is told where to send them",
        "http://[::1]:7/replicate?call=… goes along with every prediction: nothing to register",
        "http://[::1]:7/heygen is the address to register at HeyGen",
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(database_url: str, tmp_path: Path, number: signal.Signals) -> None:
    ours = {"MOLTPIPE_DATABASE_URL": database_url, "MOLTPIPE_S3_ENDPOINT_URL": "http://127.0.0.1:9",
            "MOLTPIPE_DATA_DIR": str(tmp_path / "data"), "MOLTPIPE_REPLICATE_WEBHOOK_SECRET": REPLICATES}  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "moltpipe", "webhooks", "--port", "0"],
        env={**os.environ, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        assert command.stderr is not None
        first = command.stderr.readline()
        url = first.removeprefix("webhooks are taken at ").split(" ")[0]
        body = prediction()
        assert post(f"{url}/replicate", body, signed(body)).status_code == 200
        os.killpg(command.pid, number)
        out, err = command.communicate(timeout=20)
    assert (command.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert REPLICATES not in err
    reached = Database(database_url)
    try:
        assert len(inbox(reached)) == 1
    finally:
        reached.dispose()
