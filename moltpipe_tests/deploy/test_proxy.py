"""The door, with the real Caddy in front of real webservers: who comes in where, and what of it gets through."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from moltpipe_tests.deploy.conftest import DEPLOY
from moltpipe_tests.deploy.processes import Answers, free_ports, running

CADDYFILE = DEPLOY / "proxy" / "Caddyfile"
PROGRAMS = Path(sys.executable).parent
LIMIT = 'mutation { setConcurrencyLimit(concurrencyKey: "of-a-test", limit: 3) }'
REFUSED_TO_VIEWERS = {
    "launch": (
        'mutation { launchRun(executionParams: {mode: "default", selector: {repositoryLocationName: "moltpipe",'
        ' repositoryName: "__repository__", jobName: "produce_episode"}}) { __typename } }'
    ),
    "stop": 'mutation { terminateRun(runId: "x") { __typename } }',
    "sensor": (
        'mutation { startSensor(sensorSelector: {repositoryLocationName: "moltpipe", repositoryName: "__repository__",'
        ' sensorName: "period_sensor"}) { __typename } }'
    ),
    "schedule": (
        'mutation { startSchedule(scheduleSelector: {repositoryLocationName: "moltpipe",'
        ' repositoryName: "__repository__", scheduleName: "next_period_schedule"}) { __typename } }'
    ),
    "wipe": 'mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["clips"]}}]) { __typename } }',
    "partition": (
        'mutation { addDynamicPartition(partitionsDefName: "moltpipe_episodes", partitionKey: "x", repositorySelector:'
        ' {repositoryName: "__repository__", repositoryLocationName: "moltpipe"}) { __typename } }'
    ),
}

pytestmark = pytest.mark.e2e


class Upstream(BaseHTTPRequestHandler):
    """Tells what it was asked: in the place of the store and of `moltpipe webhooks`."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"path": self.path, "headers": dict(self.headers.items())}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 (the name in the base class)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in the base class)
        """Say nothing."""


@dataclass(frozen=True)
class Door:
    operators: str
    viewers: str
    webhooks: str
    passwords: dict[str, str]
    trust: ssl.SSLContext

    def as_(self, who: str | None) -> httpx.Client:
        auth = (who, self.passwords[who]) if who else None
        return httpx.Client(auth=auth, verify=self.trust, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    ports = dict(zip(("operators", "viewers", "webhooks", "ui", "read-only"), free_ports(5), strict=True))
    environ = {**os.environ, "PATH": os.pathsep.join([str(PROGRAMS), os.environ["PATH"]]), "DAGSTER_HOME": str(folder)}
    environ = {name: value for name, value in environ.items() if not name.startswith("MOLTPIPE_")}
    made = subprocess.run(
        [DEPLOY / "compose" / "make-secrets", folder / "secrets"],
        env=environ,
        check=True,
        capture_output=True,
        text=True,
    )
    passwords = dict(re.findall(r"^the password of (\w+), shown this once: (\w+)$", made.stdout, re.MULTILINE))
    with ExitStack() as held:
        upstream = held.enter_context(_upstream())
        for name, options in (("ui", []), ("read-only", ["--read-only"])):
            command = [str(PROGRAMS / "dagster-webserver"), "--empty-workspace", "--port", str(ports[name]), *options]
            until = Answers(f"http://127.0.0.1:{ports[name]}/server_info", 200)
            held.enter_context(running(command, environ, folder / f"{name}.log", until=until))
        settings = {
            "XDG_DATA_HOME": str(folder / "caddy"),
            "OPERATOR_SITE": f"localhost:{ports['operators']}",
            "VIEWER_SITE": f"localhost:{ports['viewers']}",
            "WEBHOOK_SITE": f"localhost:{ports['webhooks']}",
            "OPERATORS_FILE": str(folder / "secrets" / "operators"),
            "VIEWERS_FILE": str(folder / "secrets" / "viewers"),
            "WEBSERVER": f"127.0.0.1:{ports['ui']}",
            "WEBSERVER_READONLY": f"127.0.0.1:{ports['read-only']}",
            "WEBHOOKS": upstream,
            "MEDIA": upstream,
        }
        command = [str(PROGRAMS / "caddy"), "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
        until = Answers(f"https://localhost:{ports['webhooks']}/", 404)
        held.enter_context(running(command, {**environ, **settings}, folder / "caddy.log", until=until))
        authority = folder / "caddy" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        trust = ssl.create_default_context(cafile=str(authority))
        addresses = {name: f"https://localhost:{ports[name]}" for name in ("operators", "viewers", "webhooks")}
        yield Door(**addresses, passwords=passwords, trust=trust)


@contextmanager
def _upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ask(client: httpx.Client, site: str, query: str, **headers: str) -> httpx.Response:
    return client.post(f"{site}/graphql", json={"query": query}, headers=headers)


def data(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    assert "errors" not in document, document
    found: dict[str, Any] = document["data"]
    return found


def test_nobody_comes_in_without_a_password(door: Door) -> None:
    with door.as_(None) as stranger:
        for site in (door.operators, door.viewers):
            for path in ("/", "/server_info", "/graphql", "/media/takes/a.mp4"):
                assert stranger.get(f"{site}{path}").status_code == 401
            assert ask(stranger, site, LIMIT).status_code == 401
        wrong = stranger.get(door.operators, auth=("operator", "of-somebody-else"))
        assert wrong.status_code == 401
        assert "Dagster" not in wrong.text


def test_an_operator_works_on_both_sites(door: Door) -> None:
    with door.as_("operator") as operator:
        page = operator.get(door.operators)
        assert (page.status_code, "Dagster" in page.text) == (200, True)
        assert data(ask(operator, door.operators, LIMIT)) == {"setConcurrencyLimit": True}
        assert operator.get(f"{door.viewers}/server_info").status_code == 200


def test_a_viewer_looks_and_is_not_let_in_to_the_operators(door: Door) -> None:
    with door.as_("viewer") as viewer:
        assert data(ask(viewer, door.viewers, "{ version }"))["version"]
        assert viewer.get(f"{door.viewers}/server_info").status_code == 200
        assert viewer.get(door.operators).status_code == 401
        assert ask(viewer, door.operators, LIMIT).status_code == 401


@pytest.mark.parametrize("name", REFUSED_TO_VIEWERS)
def test_what_viewers_see_cannot_be_changed_there_even_by_an_operator(door: Door, name: str) -> None:
    for who in ("viewer", "operator"):
        with door.as_(who) as client:
            answer = data(ask(client, door.viewers, REFUSED_TO_VIEWERS[name]))
            assert [one["__typename"] for one in answer.values()] == ["UnauthorizedError"]


def test_a_limit_is_not_changed_by_viewers(door: Door) -> None:
    with door.as_("viewer") as viewer:
        refused = ask(viewer, door.viewers, LIMIT.replace("limit: 3", "limit: 9")).json()
    with door.as_("operator") as operator:
        query = '{ instance { concurrencyLimit(concurrencyKey: "of-a-test") { limit } } }'
        assert data(ask(operator, door.operators, query))["instance"]["concurrencyLimit"]["limit"] != 9, refused


@pytest.mark.parametrize("who", ["operator", "viewer"])
def test_what_a_run_prints_comes_live_over_a_websocket(door: Door, who: str) -> None:
    site = door.operators if who == "operator" else door.viewers
    address = site.replace("https:", "wss:") + "/graphql"
    basic = b64encode(f"{who}:{door.passwords[who]}".encode()).decode()
    protocols = [Subprotocol("graphql-ws")]
    with pytest.raises(InvalidStatus, match="401"):
        connect(address, ssl=door.trust, subprotocols=protocols, proxy=None).close()
    headers = {"Authorization": f"Basic {basic}", "Origin": site}
    with connect(address, ssl=door.trust, subprotocols=protocols, additional_headers=headers, proxy=None) as socket:
        socket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket.recv(timeout=30))["type"] == "connection_ack"
    headers["Origin"] = "https://elsewhere.example"
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, ssl=door.trust, subprotocols=protocols, additional_headers=headers, proxy=None).close()


def test_another_page_cannot_use_the_password_that_a_browser_knows(door: Door) -> None:
    with door.as_("operator") as operator:
        for headers in ({"Origin": "https://elsewhere.example"}, {"Origin": door.viewers}, {"Origin": "null"}):
            assert ask(operator, door.operators, LIMIT, **headers).status_code == 403
        assert ask(operator, door.operators, LIMIT, Origin=door.operators).status_code == 200
        # A link is enough for Dagster: it takes a mutation from the address.
        for site in ("cross-site", "same-site"):
            linked = operator.get(
                f"{door.operators}/graphql", params={"query": LIMIT}, headers={"Sec-Fetch-Site": site}
            )
            assert linked.status_code == 403
        # A link in a mail or a chat to a page opens it.
        opened = operator.get(f"{door.operators}/runs", headers={"Sec-Fetch-Site": "cross-site"})
        assert opened.status_code == 200


def test_media_is_seen_by_both_and_the_store_hears_no_password(door: Door) -> None:
    for who in ("viewer", "operator"):
        with door.as_(who) as client:
            seen = client.get(f"{door.viewers}/media/takes/a%20b.mp4", headers={"Range": "bytes=0-9"}).json()
            assert seen["path"] == "/moltpipe/takes/a%20b.mp4"
            assert seen["headers"]["Range"] == "bytes=0-9"
            assert "Authorization" not in seen["headers"]
            assert client.delete(f"{door.viewers}/media/takes/a.mp4").status_code == 405


def test_webhooks_come_in_without_a_password_and_nothing_else_does(door: Door) -> None:
    with door.as_(None) as provider:
        told = provider.post(f"{door.webhooks}/replicate?call=1", json={}, headers={"webhook-signature": "v1,x"})
        assert told.json()["path"] == "/replicate?call=1"
        assert told.json()["headers"]["Webhook-Signature"] == "v1,x"
        assert provider.get(f"{door.webhooks}/replicate").status_code == 404
        for path in ("/", "/graphql", "/healthz", "/media/takes/a.mp4", "/replicate/../graphql"):
            assert provider.post(f"{door.webhooks}{path}").status_code == 404


def test_a_body_that_is_too_large_is_refused(door: Door) -> None:
    with door.as_("operator") as operator:
        answer = operator.post(f"{door.operators}/graphql", json={"query": "x" * 11_000_000})
        assert answer.status_code == 413


def test_browsers_are_told_to_be_careful_and_not_what_serves(door: Door) -> None:
    with door.as_("operator") as operator:
        headers = operator.get(door.operators).headers
    assert headers["Strict-Transport-Security"].startswith("max-age=")
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert "Caddy" not in headers.get("Server", "")
