"""An API server of Kubernetes that knows jobs and their pods, over real HTTP, and remembers what it was asked.

Everything that it is sent is there at once: a job has one pod, which runs until `finish` or a deletion.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>\w+))/v1/namespaces/(?P<namespace>[\w-]+)/(?P<resource>\w+)(?:/(?P<name>[\w-]+))?(?:/(?P<sub>\w+))?$"
)


@dataclass
class KubernetesApi:
    """What was asked, the jobs that there are, and how they are."""

    kubeconfig: Path
    asked: set[tuple[str, str, str]] = field(default_factory=set)
    """Verb, group and resource, as a Role names them."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=lambda: {"active": 1})

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[HTTPStatus, object]:
        found = _PATH.match(path)
        assert found is not None, path
        name, resource = found["name"], found["resource"]
        verb = {"GET": "get" if name else "list", "POST": "create", "DELETE": "delete"}[method]
        self.asked.add((verb, found["group"] or "", f"{resource}/{found['sub']}" if found["sub"] else resource))
        if verb == "create":
            self.jobs[body["metadata"]["name"]] = body
            return HTTPStatus.CREATED, body
        if resource == "jobs" and name and name not in self.jobs:
            return HTTPStatus.NOT_FOUND, {"kind": "Status", "reason": "NotFound"}
        return HTTPStatus.OK, self._found(verb, resource, name)

    def _found(self, verb: str, resource: str, name: str) -> object:
        if verb == "list":
            return {"items": self._pods() if resource == "pods" else []}
        if verb == "delete":
            self.jobs.pop(name, None)
            return {"kind": "Status", "status": "Success"}
        return self.jobs[name] | {"status": self.status} if resource == "jobs" else "said the run"

    def _pods(self) -> list[dict[str, Any]]:
        running = {"name": "dagster", "image": "", "imageID": "", "ready": True, "restartCount": 0}
        return [
            {
                "metadata": {"name": f"{name}-pod"},
                "spec": job["spec"]["template"]["spec"],
                "status": {"phase": "Running", "containerStatuses": [running | {"state": {"running": {}}}]},
            }
            for name, job in self.jobs.items()
        ]


@contextmanager
def kubernetes_api(folder: Path) -> Iterator[KubernetesApi]:
    """A server on loopback, with a kubeconfig for it in a folder."""
    api = KubernetesApi(folder / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is its base class's
            """Say nothing."""

        def _do(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, answer = api.answer(self.command, urlsplit(self.path).path, json.loads(sent or b"{}"))
            said = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_DELETE = _do  # noqa: N815 - the names are its base class's

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "current-context": "one",
                    "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
                    "clusters": [{"name": "one", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                    "users": [{"name": "one", "user": {}}],
                }
            )
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
